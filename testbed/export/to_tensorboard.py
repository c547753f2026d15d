"""A run as TensorBoard logs: one log per arm, so that one chart shows arms and runs together."""

import importlib
from pathlib import Path
from typing import Any

from testbed.core.errors import UserError
from testbed.core.files import check_folder_for_output
from testbed.export.content import ExportedArm, ExportedRun


def writer_class() -> Any:
    """Return TensorBoard's writer, from torch with tensorboard, or from tensorboardX.

    Raises
    ------
    UserError : neither package is installed.
    """
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return importlib.import_module(module).SummaryWriter
        except ImportError:
            continue
    raise UserError(
        "--tensorboard: neither tensorboard nor tensorboardX is installed; pip install tensorboard"
    )


def export_to_tensorboard(run: ExportedRun, folder: Path) -> list[Path]:
    """Write the logs and return their folders: ``FOLDER/RUN/ARM``.

    Raises
    ------
    UserError : no writer is installed, or a log exists already; every curve would appear twice.
    """
    writer = writer_class()
    check_folder_for_output(folder, "choose a folder with --tensorboard")
    logs = [folder / run.folder.resolve().name / arm.name for arm in run.arms]
    for log in logs:
        if log.exists() and (not log.is_dir() or any(log.iterdir())):
            raise UserError(f"{log}: exists already; remove it or choose another folder")
    for arm, log in zip(run.arms, logs, strict=True):
        try:
            _write(writer(str(log)), run, arm)
        except OSError as error:
            raise UserError(f"{log}: cannot be written ({error.strerror})") from None
    return logs


def _write(writer: Any, run: ExportedRun, arm: ExportedArm) -> None:
    with writer:
        for point in arm.curves:
            writer.add_scalar(point.name, point.value, point.step)
        for name, value in arm.figures.items():
            writer.add_scalar(f"result/{name}", value, 0)
        for name, images in arm.pictures.items():
            writer.add_images(f"reconstructions/{name}", images, 0, dataformats="NHWC")
        lines = [f"{key}: {value}" for key, value in arm.facts.items()]
        writer.add_text("arm", "  \n".join(lines), 0)
        writer.add_text("scenario", f"```\n{run.scenario_text}```", 0)
