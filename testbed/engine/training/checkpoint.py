"""Checkpoints of an arm's training: one safetensors file per round, with plain state in the header.

Files are written atomically, and a checksum detects later damage. The last two are kept: if the
newest is damaged, a resumed run loses a few rounds. Nothing is unpickled.
"""

import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from testbed.core.files import whole_file

KEPT = 2
STATE_KEY = "state"
DAMAGE = (
    *(SafetensorError, OSError, ValueError, KeyError, TypeError),
    *(RuntimeError, AttributeError, OverflowError),
)
"""Errors that safetensors or PyTorch raise for a damaged file."""
_LOG = logging.getLogger(__name__)


def _path(folder: Path, server_round: int) -> Path:
    return folder / f"round-{server_round:06d}.safetensors"


def _rounds(folder: Path) -> list[int]:
    found = (re.fullmatch(r"round-(\d{6,})\.safetensors", path.name) for path in folder.glob("*"))
    return sorted(int(match.group(1)) for match in found if match)


def save(
    folder: Path, server_round: int, tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write the checkpoint of a round, and remove those before the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(_path(folder, server_round), tensors, state)
    for old in _rounds(folder)[:-KEPT]:
        _path(folder, old).unlink()


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and JSON-able state as one safetensors file, all or nothing."""
    # NumPy's empty columns may have a stride of 0, which cannot be viewed as bytes.
    whole = torch.contiguous_format
    contiguous = {name: v.detach().clone(memory_format=whole) for name, v in tensors.items()}
    text = json.dumps(state)
    # One entry: safetensors does not keep the order of several, so that files would differ.
    metadata = {STATE_KEY: f"{_checksum(contiguous, text)} {text}"}
    with whole_file(path) as temporary:
        save_file(contiguous, temporary, metadata=metadata)


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the CRC-32 of names, types, shapes and bytes of the tensors, and of a text."""
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        flat = value.cpu().contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(flat.numpy().data, total)
    return f"{total:08x}"


def load_latest(
    folder: Path, say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and state of the newest readable checkpoint, or None.

    Parameters
    ----------
    say : receives a sentence for every damaged one.
    """
    for server_round in reversed(_rounds(folder)):
        path = _path(folder, server_round)
        try:
            return _read(path)
        except DAMAGE as error:
            _LOG.warning("%s is damaged: %s", path, error)
            say(f"{path} is damaged; falling back on the one before")
    return None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and state of one file, or raise one of ``DAMAGE``."""
    with safe_open(path, framework="pt") as file:
        checksum, text = file.metadata()[STATE_KEY].split(" ", 1)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if checksum != _checksum(tensors, text):
        raise ValueError("the checksum is that of another content")
    state: dict[str, Any] = json.loads(text)
    return tensors, state


def strategy_state(strategy: Strategy) -> dict[str, Tensor]:
    """Return the arrays that a Flower strategy carries from round to round (moments, momentum)."""
    tensors: dict[str, Tensor] = {}
    for attribute, value in vars(strategy).items():
        if isinstance(value, ArrayRecord):
            items = {f"record.{name}": array.numpy() for name, array in value.items()}
        elif isinstance(value, dict):
            items = {f"dict.{name}": item for name, item in value.items()}
        elif isinstance(value, list):
            items = {f"list.{index}": item for index, item in enumerate(value)}
        else:
            continue
        for name, item in items.items():
            if isinstance(item, np.ndarray):
                tensors[f"strategy/{attribute}/{name}"] = torch.from_numpy(np.array(item))
    return tensors


def load_strategy_state(strategy: Strategy, tensors: dict[str, Tensor]) -> None:
    """Restore what ``strategy_state`` returned."""
    grouped: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for key, value in tensors.items():
        if key.startswith("strategy/"):
            _, attribute, name = key.split("/", 2)
            grouped.setdefault(attribute, {})[name] = value.numpy()
    for attribute, items in grouped.items():
        kind = next(iter(items)).split(".", 1)[0]
        named = {name.split(".", 1)[1]: item for name, item in items.items()}
        restored: Any = named
        if kind == "list":
            restored = [named[str(index)] for index in range(len(named))]
        elif kind == "record":
            restored = ArrayRecord({name: Array(item) for name, item in named.items()})
        setattr(strategy, attribute, restored)
