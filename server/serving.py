"""Serving as a Flower ServerApp: deploy the front-end, receive features, send answers.

A request starts on a device. In Flower the server sends a message and the node replies, so a
trigger message that never crosses the wire starts the request (testbed.wire.protocol). Features and
answers are ordinary messages.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from server.aggregation import Weights
from server.broadcast import ask_all
from server.cloud import Cloud
from testbed.wire import protocol
from testbed.wire.encoding import decode
from testbed.wire.records import to_record, to_tensors

MESSAGES_IN_FLIGHT = 128  # bounds the features in memory
NO_ANSWER = -1

FrontEndInCloud = Callable[[Tensor, int, int], Tensor]
"""(raw image uint8 (1, C, H, W), node, request) -> features (1, C', H', W') of the node's tier."""


@dataclass(frozen=True)
class Request:
    """One image that a device's user wants to classify."""

    request: int
    node: int
    image: int
    arrival_s: float


class Serving:
    """Deploys one trained front-end and answers requests with the cloud model.

    Parameters
    ----------
    front_ends : parameters and statistics of each tier's front-end.
    tier_of : the tier of each node, 0 for nodes that are not listed.
    front_end : runs the front-end in the cloud for devices that cannot; None excludes them.
    """

    def __init__(
        self,
        cloud: Cloud,
        front_ends: Sequence[tuple[Weights, Weights]],
        tier_of: Mapping[int, int] | None = None,
        front_end: FrontEndInCloud | None = None,
    ) -> None:
        self._cloud = cloud
        self._front_ends = front_ends
        self._tier_of: Mapping[int, int] = tier_of or {}
        self._front_end = front_end
        self._too_small: set[int] = set()

    def deploy(self, grid: Grid) -> NDArray[np.int64]:
        """Send the front-end to every node; return the nodes that accepted it.

        Nodes with too little memory for it send raw images from now on, if there is a front-end in
        the cloud.
        """
        contents = [
            RecordDict(
                {
                    protocol.ARRAYS: to_record(parameters),
                    protocol.STATISTICS: to_record(statistics),
                    protocol.CONFIG: ConfigRecord(
                        {protocol.VERSION: "deployed", protocol.TIER: number}
                    ),
                }
            )
            for number, (parameters, statistics) in enumerate(self._front_ends)
        ]
        self._too_small = set()
        accepted = [np.empty(0, dtype=np.int64)]
        for answer in ask_all(grid, protocol.DEPLOY, contents, self._tier_of):
            if answer.reply.has_content():
                accepted.append(answer.nodes)
            elif answer.reply.error.code == protocol.INFEASIBLE:
                self._too_small.update(answer.nodes.tolist())
        return np.concatenate(accepted)

    def answer(
        self, grid: Grid, requests: Sequence[Request], on_chunk: Callable[[int], None]
    ) -> dict[int, int]:
        """Serve requests in the given order.

        Returns
        -------
        The predicted class by request id, without requests whose features did not arrive.
        """
        answers: dict[int, int] = {}
        for chunk in _chunks(requests, MESSAGES_IN_FLIGHT):
            features = self._features(grid, chunk)
            if features:
                predicted = self._predict(features, chunk)
                answered = [item for item in chunk if item.request in predicted]
                classes = {request: {protocol.ANSWER_CLASS: c} for request, c in predicted.items()}
                list(grid.send_and_receive(_messages(protocol.ANSWER, answered, classes)))
                answers |= predicted
            on_chunk(len(chunk))
        return answers

    def _tier(self, node: int) -> int:
        return self._tier_of.get(node, 0)

    def _predict(self, features: dict[int, Tensor], chunk: Sequence[Request]) -> dict[int, int]:
        """Classify one chunk's features, one tier after another."""
        predicted: dict[int, int] = {}
        tiers = {item.request: self._tier(item.node) for item in chunk}
        for tier in sorted({tiers[request] for request in features}):
            of_tier = [request for request in features if tiers[request] == tier]
            z = torch.cat([features[request] for request in of_tier])
            classes = self._cloud.answer(z, tier).argmax(dim=1)
            predicted |= {request: int(c) for request, c in zip(of_tier, classes, strict=True)}
        return predicted

    def _features(self, grid: Grid, chunk: Sequence[Request]) -> dict[int, Tensor]:
        details = {
            item.request: {
                protocol.IMAGE: item.image,
                protocol.ARRIVAL_S: item.arrival_s,
                protocol.RAW: self._sends_raw(item.node),
            }
            for item in chunk
        }
        features = {}
        for reply in grid.send_and_receive(_messages(protocol.INFER, chunk, details)):
            received = self._received(reply) if reply.has_content() else None
            if received is not None:
                features[int(reply.metadata.group_id)] = received
        return features

    def _sends_raw(self, node: int) -> bool:
        return self._front_end is not None and node in self._too_small

    def _received(self, reply: Message) -> Tensor | None:
        """Return a reply's features, computed here if the device sent the raw image.

        None if they are unusable; such a request stays unanswered.
        """
        node, records = reply.metadata.src_node_id, reply.content.array_records
        try:
            if protocol.RAW_IMAGE in records:
                if not self._sends_raw(node):
                    return None
                assert self._front_end is not None
                image = to_tensors(records[protocol.RAW_IMAGE])[protocol.X]
                z = self._front_end(image, node, int(reply.metadata.group_id))
            else:
                z = decode(to_tensors(records[protocol.FEATURES]))
        except (ValueError, TypeError, KeyError, RuntimeError):
            return None
        fits = tuple(z.shape) == (1, *self._cloud.model.shapes[self._tier(node)])
        return z if fits and bool(torch.isfinite(z).all()) else None


def _messages(
    message_type: str, chunk: Sequence[Request], details: Mapping[int, Mapping[str, float]]
) -> list[Message]:
    """Return one message per request, with its id and details as configuration."""
    return [
        Message(
            RecordDict(
                {
                    protocol.CONFIG: ConfigRecord(
                        {protocol.REQUEST: item.request, **details[item.request]}
                    )
                }
            ),
            dst_node_id=item.node,
            message_type=message_type,
            group_id=str(item.request),
        )
        for item in chunk
    ]


def _chunks(items: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
