"""Groups of rows that are equal in all columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def equal_rows(*columns: NDArray[np.integer[Any]]) -> list[NDArray[np.int64]]:
    """Return the rows that are equal in all columns, one ascending array per group."""
    group = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, numbers = np.unique(column, return_inverse=True)
        group = np.unique(group * len(values) + numbers, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    return [members for members in np.split(order, ends) if len(members)]
