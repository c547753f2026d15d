"""One exchange with every node of a Grid: the same message to all, or one content per tier."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """A reply, and the nodes that gave it; theirs differ in nothing but addresses."""

    reply: Message
    nodes: NDArray[np.int64]


@runtime_checkable
class Broadcasting(Protocol):
    """A Grid that carries one message to all nodes without an object per node."""

    def broadcast(self, message_type: str, contents: Sequence[RecordDict]) -> list[Answer] | None:
        """Send every node the content of its tier; None: this message must go node by node.

        Parameters
        ----------
        contents : one per tier, or one for all.
        """


def ask_all(
    grid: Grid, message_type: str, contents: Sequence[RecordDict], tier_of: Mapping[int, int]
) -> Iterator[Answer]:
    """Send one message to every node and yield all replies, equal ones together where possible.

    Flower's own Grids get a message per node.

    Parameters
    ----------
    contents : one per tier, or one for all.
    tier_of : the tier of each node, 0 for nodes that are not listed.
    """
    answers = grid.broadcast(message_type, contents) if isinstance(grid, Broadcasting) else None
    if answers is not None:
        yield from answers
        return
    messages = [
        Message(contents[tier_of.get(node, 0) if len(contents) > 1 else 0], node, message_type)
        for node in grid.get_node_ids()
    ]
    for reply in grid.send_and_receive(messages):
        yield Answer(reply, np.array([reply.metadata.src_node_id], dtype=np.int64))
