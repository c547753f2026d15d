"""The part of a tap that reads training messages: features, labels, and the round's front-end.

A victim is a training image whose features were sent in one of the rounds that the adversary
attacks. Its features belong to the front-end of their round, as it was sent to the devices, which
the tap therefore keeps.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray
from torch import Tensor

from clients.device_spec import deployable
from clients.local_training import batch_places
from testbed.core.seeds import generator
from testbed.core.state_dicts import below, under
from testbed.engine.setting.auxiliary_data import auxiliary_classes
from testbed.engine.setting.positions import colluding_device
from testbed.engine.setting.run_context import RunInputs
from testbed.scenario.adversary import Adversary
from testbed.wire import protocol
from testbed.wire.encoding import decode
from testbed.wire.records import config_number, record_in, tier_of, to_tensors

MAX_TRAINING_VICTIMS = 256
"""Training images that an adversary attacks at most; bounds memory and checkpoints."""

Weights = dict[str, NDArray[np.float32]]
RoundTier = tuple[int, int]
"""A round, and a tier whose front-end was trained in it."""


@dataclass(frozen=True)
class SentImage:
    """Features of a training image as sent in one step, float32 (C', H', W').

    Adversaries see ``features`` and ``label`` only.
    """

    image: int
    device: int
    label: int
    features: NDArray[np.float32]


@dataclass(frozen=True)
class RoundWeights:
    """A tier's front-end as sent to the devices in a round."""

    parameters: Weights
    statistics: Weights


class TrainingTap:
    """Reads the features of training images in some rounds, of a limited number of images.

    Parameters
    ----------
    rounds : the rounds that it reads.
    ranks : per image of the pool: those with the lowest are kept; -1 is never a victim.
    images_of : (device, round, step) -> the images of the step's batch, in their order.
    left_out : a device whose images are no victims, or None.
    most : images whose features are kept.
    """

    def __init__(
        self,
        rounds: list[int],
        ranks: NDArray[np.int64],
        images_of: Callable[[int, int, int], NDArray[np.int64]],
        left_out: int | None = None,
        most: int = MAX_TRAINING_VICTIMS,
    ) -> None:
        self.rounds = rounds
        self._ranks, self._images_of = ranks, images_of
        self._left_out, self._most = left_out, most
        self._seen = np.zeros(len(ranks), dtype=np.bool_)
        self._kept: dict[int, list[tuple[RoundTier, SentImage]]] = {}
        self._front_ends: dict[RoundTier, RoundWeights] = {}

    @property
    def seen(self) -> int:
        """How many different images were read, kept or not."""
        return int(self._seen.sum())

    @property
    def victims(self) -> list[int]:
        """The images that were kept, in the order that the seed draws."""
        return sorted(self._kept, key=lambda image: int(self._ranks[image]))

    def sent(self) -> dict[RoundTier, list[SentImage]]:
        """Return what was kept, by round and tier, in the order of the victims."""
        found: dict[RoundTier, list[SentImage]] = defaultdict(list)
        for image in self.victims:
            for place, item in self._kept[image]:
                found[place].append(item)
        return {place: found[place] for place in sorted(found)}

    def front_end(self, place: RoundTier) -> RoundWeights:
        """Return a tier's front-end as it was sent in a round."""
        return self._front_ends[place]

    def read(self, device: int, request: Message, reply: Message) -> None:
        """Copy the features of a training step, and the front-end that came before them."""
        server_round = int(config_number(request.content, protocol.SERVER_ROUND))
        if server_round not in self.rounds or device == self._left_out:
            return
        place = (server_round, tier_of(request.content))
        self._keep_front_end(place, request)
        step = int(config_number(request.content, protocol.STEP))
        images = self._images_of(device, server_round, step)
        self._seen[images[self._ranks[images] >= 0]] = True
        wanted = [index for index, image in enumerate(images.tolist()) if self._wants(image)]
        record = record_in(reply.content, protocol.FEATURES, ArrayRecord)
        if not wanted or record is None or protocol.TARGETS not in record:
            return
        try:
            tensors = to_tensors(record)
            features = decode(tensors).numpy()
            labels = tensors[protocol.TARGETS].argmax(dim=1).numpy()
        except (ValueError, TypeError, IndexError):
            return  # from a faulty device; the server does not use it either
        if not len(features) == len(labels) == len(images):
            return
        for index in wanted:
            image = int(images[index])
            item = SentImage(image, device, int(labels[index]), features[index].copy())
            self._kept.setdefault(image, []).append((place, item))
        while len(self._kept) > self._most:
            del self._kept[self.victims[-1]]

    def _wants(self, image: int) -> bool:
        rank = int(self._ranks[image])
        if rank < 0 or image in self._kept or len(self._kept) < self._most:
            return rank >= 0
        return rank < max(int(self._ranks[kept]) for kept in self._kept)

    def _keep_front_end(self, place: RoundTier, request: Message) -> None:
        arrays = record_in(request.content, protocol.ARRAYS, ArrayRecord)
        statistics = record_in(request.content, protocol.STATISTICS, ArrayRecord)
        if place in self._front_ends or arrays is None or statistics is None:
            return
        self._front_ends[place] = RoundWeights(
            {name: value.numpy() for name, value in deployable(to_tensors(arrays)).items()},
            {name: value.numpy() for name, value in to_tensors(statistics).items()},
        )

    def state(self) -> dict[str, Tensor]:
        """Return everything as flat tensors, for a checkpoint."""
        tensors = {"seen": torch.from_numpy(np.flatnonzero(self._seen))}
        for place, weights in self._front_ends.items():
            for kind in ("parameters", "statistics"):
                prefix = f"front_end.{_text(place)}.{kind}."
                arrays: Weights = getattr(weights, kind)
                tensors |= under(prefix, {n: torch.from_numpy(v) for n, v in arrays.items()})
        for place, items in self.sent().items():
            facts = [(item.image, item.device, item.label) for item in items]
            features = np.stack([item.features for item in items])
            kept = {"facts": torch.tensor(facts), "features": torch.from_numpy(features)}
            tensors |= under(f"sent.{_text(place)}.", kept)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        self._seen[tensors["seen"].numpy()] = True
        for place, own in _by_place("front_end.", tensors).items():
            parameters, statistics = below("parameters.", own), below("statistics.", own)
            self._front_ends[place] = RoundWeights(
                {name: value.numpy() for name, value in parameters.items()},
                {name: value.numpy() for name, value in statistics.items()},
            )
        for place, own in _by_place("sent.", tensors).items():
            facts, features = own["facts"].tolist(), own["features"].numpy()
            for (image, device, label), z in zip(facts, features, strict=True):
                item = SentImage(image, device, label, z)
                self._kept.setdefault(image, []).append((place, item))


def _text(place: RoundTier) -> str:
    return f"{place[0]}-{place[1]}"


def _by_place(prefix: str, tensors: Mapping[str, Tensor]) -> dict[RoundTier, dict[str, Tensor]]:
    """Return the entries below a prefix by their round and tier, in this order."""
    found: dict[RoundTier, dict[str, Tensor]] = defaultdict(dict)
    for name, value in below(prefix, tensors).items():
        place, rest = name.split(".", 1)
        server_round, tier = place.split("-")
        found[int(server_round), int(tier)][rest] = value
    return {place: found[place] for place in sorted(found)}


def open_training_tap(inputs: RunInputs, adversary: Adversary) -> TrainingTap:
    """Return an empty tap for an adversary whose victims are training images.

    The order that victims are drawn in is the same for all adversaries and arms.
    """
    scenario, data = inputs.scenario, inputs.data
    seed, training = scenario.seed, scenario.training
    rows = data.parts.training
    ranks = np.full(len(data.pool.labels), -1, dtype=np.int64)
    ranks[rows] = generator(seed, "training victims").permutation(len(rows))
    held = auxiliary_classes(adversary, data.pool.num_classes, seed)
    if held is not None:
        ranks[np.isin(data.pool.labels, held)] = -1

    def images_of(device: int, server_round: int, step: int) -> NDArray[np.int64]:
        own = data.device_images[device]
        at = (device, server_round, step)
        return own[batch_places(seed, at, len(own), training.batch_size)]

    own = colluding_device(adversary.name, adversary.position, len(inputs.fleet), seed)
    rounds = adversary.rounds_attacked(training.fleet_rounds)
    return TrainingTap(rounds, ranks, images_of, own)
