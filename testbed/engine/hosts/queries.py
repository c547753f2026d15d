"""Query access without weights: a service answers queries, and the adversary holds a ticket.

An adversary that is granted queries but no weights runs in a process that never receives the
front-end. Its oracle sends images to the service and receives released features.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import FloatArray
from testbed.core.errors import UserError


class QueryService:
    """Answers queries to deployed front-ends; each has a ticket and its own limit."""

    def __init__(self) -> None:
        self._served: dict[int, tuple[DeployedFrontEnd, str]] = {}
        self._left: dict[int, int | None] = {}
        self._limits: dict[int, int | None] = {}
        self._tickets = itertools.count()

    def open(self, deployed: DeployedFrontEnd, adversary: str, limit: int | None) -> int:
        """Serve a front-end and return its ticket."""
        ticket = next(self._tickets)
        self._served[ticket] = (deployed, adversary)
        self._left[ticket] = self._limits[ticket] = limit
        return ticket

    def query(self, ticket: int, images: FloatArray, draw: int) -> FloatArray:
        """Return released features of images in [0, 1].

        Raises
        ------
        UserError : the adversary exceeds its limit.
        """
        deployed, adversary = self._served[ticket]
        left = self._left[ticket]
        if left is not None:
            if len(images) > left:
                raise UserError(
                    f"adversaries.{adversary}.knowledge.queries: the attack asks for "
                    f"{len(images)} images with {left} left; raise the limit"
                )
            self._left[ticket] = left - len(images)
        return deployed.query(np.ascontiguousarray(images), draw)

    def renew(self, ticket: int) -> None:
        """Restore the query budget of an adversary whose job is repeated."""
        self._left[ticket] = self._limits[ticket]

    def close(self, ticket: int) -> None:
        """Stop serving a front-end."""
        del self._served[ticket], self._left[ticket], self._limits[ticket]


@dataclass(frozen=True)
class QueryAccess:
    """A query oracle without weights: a ticket, and a function that asks the service."""

    ticket: int
    ask: Callable[[int, FloatArray, int], FloatArray]

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        """Return released features of images in [0, 1]; ``draw`` numbers random releases."""
        return self.ask(self.ticket, images, draw)
