"""Single steps of an arm's models, executed with initial weights and timed on this machine."""

import copy
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from clients.deployed import DeployedFrontEnd
from clients.local_training import LocalTraining
from server.cloud import Cloud
from testbed.cli.stopwatch import Stopwatch
from testbed.core.seeds import torch_generator
from testbed.data.federated import to_unit
from testbed.engine.setting.models import ArmModels, TierModel
from testbed.engine.setting.run_context import RunInputs

FEW = 16  # images of a step that is timed


class TimedArm:
    """One arm's models, and the seconds of their steps in one thread.

    Attributes
    ----------
    tiers : those that devices are in, with their ``shares`` of the fleet.
    oracles : their front-ends as deployed, before any training.
    images : a few images of the run, in [0, 1].
    """

    def __init__(self, inputs: RunInputs, models: ArmModels, watch: Stopwatch) -> None:
        self.inputs, self.scenario, self.watch = inputs, inputs.scenario, watch
        self.numbers = models.used()
        self.tiers = [models.tiers[tier] for tier in self.numbers]
        self.shares = [models.share(tier) for tier in self.numbers]
        self.oracles = [deployed(tier) for tier in self.tiers]
        self.pixels = inputs.data.pool.images[:FEW]
        self.images = to_unit(self.pixels)
        self.classes = inputs.data.pool.num_classes
        self.models = models
        optimiser = self.scenario.training.cloud_optimiser
        self.cloud = Cloud(copy.deepcopy(models.cloud), optimiser, seed=0, threads=1)

    def seconds(self, place: int, what: Hashable, step: Callable[[], object]) -> float:
        """Return the time of a step that depends on the front-end and defence of a tier."""
        spec = replace(self.tiers[place].device_spec, arm="", tier="")
        return self.watch.seconds((repr(spec), what), step)

    def cloud_seconds(self, place: int, what: str, step: Callable[[], object]) -> float:
        """Return the time of a step of the cloud, which does not depend on the defence."""
        front_end = self.tiers[place].device_spec.front_end
        shapes = tuple(self.models.cloud.shapes)
        return self.watch.seconds((repr(front_end), shapes, what), step)

    def mean(self, of: Callable[[int], float]) -> float:
        """Return the mean of a figure of the tiers over the devices."""
        return sum(share * of(place) for place, share in enumerate(self.shares))

    def release_s(self, place: int) -> float:
        """Return the time to release one image's features."""
        step = partial(self.oracles[place].query, self.images, 0)
        return self.seconds(place, "query", step) / len(self.images)

    def answer_s(self, place: int) -> float:
        """Return the cloud's time to answer one image's features."""
        features = self.features(place, FEW)
        step = partial(self.cloud.answer, features, self.numbers[place])
        return self.cloud_seconds(place, "answer", step) / FEW

    def device_step_s(self, place: int) -> float:
        """Return a device's time of one step of training, with taking over the weights."""
        model, training = self.tiers[place].edge, self.scenario.training
        parameters, statistics = model.initial_weights()
        moments = model.initial_moments()
        pool = self.inputs.data.pool
        rows = np.arange(training.batch_size) % len(pool.images)
        images, labels = pool.images[rows], pool.labels[rows]

        def step() -> None:
            local = LocalTraining(model, 0, 1, images, labels, parameters, statistics, 0.0, moments)
            local.backward(0, torch.zeros_like(local.forward(0)[0]))

        return self.seconds(place, "training step", step)

    def cloud_step_s(self, place: int, images: int) -> float:
        """Return the cloud's time of one step of training on a batch of one tier."""
        few = min(images, FEW)
        features = self.features(place, few)
        targets = torch.full((few, self.classes), 1.0 / self.classes)
        step = partial(self.cloud.step, [features], [targets], 1, 0, [self.numbers[place]])
        return self.cloud_seconds(place, f"cloud step, {few}", step) * images / few

    def features(self, place: int, count: int) -> torch.Tensor:
        """Return made-up features of a tier."""
        shape = self.tiers[place].edge.front_end.feature_shape
        return torch.randn(count, *shape, generator=torch_generator(0, "timed features"))


def deployed(tier: TierModel) -> DeployedFrontEnd:
    """Return a tier's front-end with its initial weights."""
    parameters, statistics = (
        {name: value.numpy() for name, value in part.items()}
        for part in tier.edge.initial_weights()
    )
    return DeployedFrontEnd(tier.device_spec, parameters, statistics)
