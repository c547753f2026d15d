"""The table of kept models, and their removal."""

from pathlib import Path

from testbed.cli.tables import console, table
from testbed.core.errors import UserError
from testbed.engine.training.model_cache import KeptModel, kept_models, leftovers, models_folder


def list_or_remove(folder: Path | None, *, remove: bool, clean: bool) -> None:
    """List the models of a folder, or remove all of them or those that are damaged.

    Raises
    ------
    UserError : there is no such folder.
    """
    folder = folder or models_folder()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of models")
    models = kept_models(folder)
    if remove:
        _remove([path for model in models for path in model.files] + leftovers(folder))
    elif clean:
        damaged = [path for model in models if model.problem for path in model.files]
        _remove(damaged + leftovers(folder))
    else:
        _show(folder, models)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()
    print(f"removed {len(paths)} files")


def _show(folder: Path, models: list[KeptModel]) -> None:
    made = table(
        f"models in {folder}",
        *("model", "images", "seed", "epochs", "deployed", "accuracy", "MB", "<state"),
    )
    made.columns[0].no_wrap, made.columns[0].overflow = False, "fold"
    for model in models:
        made.add_row(
            model.name,
            *(model.figures or ("", "", "", "", "")),
            f"{sum(path.stat().st_size for path in model.files) / 1e6:.1f}",
            model.problem or "sound",
        )
    console().print(made)
