"""Conversions between torch tensors and Flower records."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from testbed.wire.arrays import as_numpy, lent, to_array
from testbed.wire.protocol import CONFIG, TIER

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return an ArrayRecord of these arrays, without a check of each."""
    record = ArrayRecord()
    record.__dict__["_data"].update(arrays)
    return record


def to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return an ArrayRecord of contiguous copies of the tensors."""
    return record_of(
        {n: to_array(value.detach().cpu().contiguous().numpy()) for n, value in tensors.items()}
    )


def to_lent_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return an ArrayRecord that shares the tensors' memory; they must stay as they are.

    For replies within the testbed's processes (``testbed.wire.arrays.LentArray``).
    """
    return record_of({name: lent(value.detach().cpu().numpy()) for name, value in tensors.items()})


def to_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the record's arrays as tensors of this process."""
    # The copy makes the tensors writable and gives them torch's alignment in every process.
    return {name: torch.tensor(as_numpy(array)) for name, array in record.items()}


def record_in(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """Return the record of this name, or None if there is none of this kind.

    Flower's views by kind copy every record of the kind first.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def config_number(content: RecordDict, key: str) -> int | float:
    """Return a number of a message's configuration.

    Raises
    ------
    KeyError, TypeError : it is missing, or not a number.
    """
    config = record_in(content, CONFIG, ConfigRecord)
    if config is None:
        raise KeyError(CONFIG)
    value = config[key]
    if not isinstance(value, int | float):
        raise TypeError(f"configuration '{key}' is {value!r}, not a number")
    return value


def tier_of(content: RecordDict) -> int:
    """Return the tier whose front-end a message or a state concerns; 0 where none is given.

    Raises
    ------
    TypeError : the tier is not a number.
    """
    config = record_in(content, CONFIG, ConfigRecord)
    return int(config_number(content, TIER)) if config and TIER in config else 0
