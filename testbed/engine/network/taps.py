"""Taps: they copy the features that adversaries intercept. Only ``FleetGrid`` feeds them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray
from torch import Tensor

from testbed.engine.network.training_tap import TrainingTap, open_training_tap
from testbed.engine.setting.positions import devices_read
from testbed.engine.setting.run_context import RunInputs
from testbed.wire import protocol
from testbed.wire.encoding import decode
from testbed.wire.records import record_in, to_tensors


@dataclass(frozen=True)
class Intercept:
    """Intercepted features of one request as sent, float32 (C', H', W').

    Adversaries never see ``device`` and ``request``; scoring finds the original image by them.
    """

    device: int
    request: int
    features: NDArray[np.float32]


class Tap:
    """Intercepts the features of requests on some links, or on all of them at the cloud.

    Parameters
    ----------
    devices : devices whose links it reads (``testbed.engine.setting.positions``).
    training : reads the features of training images too; None: they are no victims.
    """

    def __init__(
        self, name: str, devices: frozenset[int], training: TrainingTap | None = None
    ) -> None:
        self.name = name
        self.training = training
        self._reads = np.zeros(max(devices, default=-1) + 1, dtype=np.bool_)  # a byte per device
        self._reads[list(devices)] = True
        self.intercepts: list[Intercept] = []
        self.raw_requests: list[int] = []

    def read(self, device: int, request: Message, reply: Message) -> None:
        """Copy the features of a reply, if this tap reads the link.

        A raw image needs no attack. It is recorded in ``raw_requests`` and excluded from attacks
        and scores.
        """
        if not self._sees(device):
            return
        if self.training is not None and request.metadata.message_type == protocol.FORWARD:
            self.training.read(device, request, reply)
        if request.metadata.message_type != protocol.INFER:
            return
        if record_in(reply.content, protocol.RAW_IMAGE, ArrayRecord) is not None:
            self.raw_requests.append(int(request.metadata.group_id))
            return
        record = record_in(reply.content, protocol.FEATURES, ArrayRecord)
        if record is None:
            return
        try:
            features = decode(to_tensors(record)).numpy()[0]
        except (ValueError, TypeError, IndexError):
            return  # from a faulty device; the server does not answer it either
        self.intercepts.append(Intercept(device, int(request.metadata.group_id), features))

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint of the training keeps."""
        return self.training.state() if self.training is not None else {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        if self.training is not None:
            self.training.load_state(tensors)

    def _sees(self, device: int) -> bool:
        return device < len(self._reads) and bool(self._reads[device])


def open_taps(inputs: RunInputs) -> list[Tap]:
    """Return an empty tap for every adversary of the scenario."""
    scenario = inputs.scenario
    shared = scenario.fleet.devices_per_access_point
    return [
        Tap(
            item.name,
            devices_read(item.name, item.position, inputs.fleet, scenario.seed, shared),
            open_training_tap(inputs, item) if item.attacks_training else None,
        )
        for item in scenario.adversaries
    ]
