"""Trained models that arms, scenarios and runs share: the folder ``models/``.

A model is two files: the weights (safetensors), and a JSON file with the model's description, the
history of its training and the hash of the weights. The JSON file is written last. A model without
it, or one that does not match it, counts as absent and is trained again.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from server.schedule import EpochRecord
from testbed.core.files import write_text
from testbed.engine.training.model_key import FORMAT, Facts, key_of

FOLDER_VARIABLE = "TESTBED_MODELS_DIR"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """The weights that a provider deploys, and the history of their training.

    Attributes
    ----------
    weights : ``tier0.<name>``, ..., ``cloud.<name>``.
    steps : batches trained on.
    best_epoch : epoch of the weights.
    """

    weights: dict[str, Tensor]
    history: Sequence[EpochRecord]
    steps: int
    best_epoch: int


def models_folder() -> Path:
    """Return the folder of models: TESTBED_MODELS_DIR, or ``models`` in the working directory."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "models").expanduser()


def load_model(folder: Path, facts: Facts, like: dict[str, Tensor]) -> TrainedModel | None:
    """Return the model with this description, or None if there is no intact one.

    Parameters
    ----------
    like : tensors with the names and shapes that the weights must have.
    """
    path = folder / f"{key_of(facts)}.json"
    if not path.exists():
        return None
    try:
        description = _read(path)
        if description["model"] != json.loads(json.dumps(facts)):
            raise ValueError("it describes another model")
        weights = load_file(path.with_suffix(".safetensors"))
        if {name: value.shape for name, value in weights.items()} != {
            name: value.shape for name, value in like.items()
        }:
            raise ValueError("the weights have other names or shapes")
        history = [EpochRecord(**record) for record in description["history"]]
        return TrainedModel(weights, history, description["steps"], description["best_epoch"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        _LOG.warning("%s cannot be used (%s); the model is trained again", path, error)
        return None


def save_model(folder: Path, facts: Facts, model: TrainedModel) -> None:
    """Store a model; if the folder cannot be written, only log it."""
    name = key_of(facts)
    path = folder / f"{name}.safetensors"
    # Two runs may train the same model at once: each writes a file of its own and moves it.
    temporary = folder / f"{name}.{os.getpid()}.part"
    description: dict[str, Any] = {
        "model": facts,
        "epochs": len(model.history),
        "best_epoch": model.best_epoch,
        "steps": model.steps,
        "history": [vars(record) for record in model.history],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.weights, temporary)
        description["weights_sha256"] = _digest(temporary)
        os.replace(temporary, path)
        write_text(path.with_suffix(".json"), json.dumps(description, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        _LOG.warning("%s was not kept (%s)", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
    else:
        _LOG.info("kept the trained model %s", path)


def _read(path: Path) -> dict[str, Any]:
    """Return the description in a JSON file, if its hash matches the weights."""
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if _digest(path.with_suffix(".safetensors")) != description["weights_sha256"]:
        raise ValueError("the weights are not those that were saved")
    return description


@dataclass(frozen=True)
class KeptModel:
    """One model of the folder, as listed.

    Attributes
    ----------
    figures : images, seed, epochs, deployed epoch and its validation accuracy; None if unreadable.
    problem : why no run can use it, or None.
    """

    name: str
    files: list[Path]
    figures: tuple[str, ...] | None
    problem: str | None


def kept_models(folder: Path) -> list[KeptModel]:
    """Return the models in the folder, by name; other files are left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        weights = path.with_suffix(".safetensors")
        files = [path, weights] if weights.exists() else [path]
        figures, problem = None, None
        try:
            description = _read(path)
            best = description["history"][description["best_epoch"] - 1]
            figures = (
                f"{description['model']['data']['training_images']:,}",
                str(description["model"]["seed"]),
                str(description["epochs"]),
                str(description["best_epoch"]),
                f"{best['validation_accuracy']:.1%}",
            )
            if key_of(description["model"]) != path.stem:
                problem = "it describes another model"
            elif description["model"].get("format") != FORMAT:
                problem = "of another version of the testbed"
        except (OSError, ValueError, KeyError, TypeError, LookupError) as error:
            problem = f"cannot be used ({error})"
        found.append(KeptModel(path.stem, files, figures, problem))
    return found


def leftovers(folder: Path) -> list[Path]:
    """Return weights without a description, and unfinished files."""
    weights = [
        path for path in folder.glob("*.safetensors") if not path.with_suffix(".json").exists()
    ]
    return sorted([*weights, *folder.glob("*.part"), *folder.glob("*.json.tmp")])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
