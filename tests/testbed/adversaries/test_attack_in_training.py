"""Attackers at the cloud during training: their losses, their state, and their success."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from testbed.adversaries.base import LabelledImages
from testbed.adversaries.shadow_front_end import (
    ClassDiscriminator,
    taken_for_real,
    told_apart,
)
from testbed.adversaries.training_attacker import FeatureScale, TrainingView, WatchedStep
from testbed.core.registries import ATTACKS, CLOUD_MODELS, FRONT_ENDS
from testbed.scenario.components import Component

DESIGN = Component(name="cnn", options={"cut": 1, "width": 8})
DEVICES, BATCH = 4, 12
SHORT = {"sdar": {"updates_per_step": 3}, "fsha": {"pilot_steps": 150}}


def digits():
    """Return digits of 16x16 in [0, 1] and their classes."""
    found = load_digits()
    small = torch.tensor(found.images / 16.0, dtype=torch.float32)[:, None]
    images = functional.interpolate(small, (16, 16), mode="bilinear").numpy()
    return images, found.target.astype(np.int64)


class Fleet:
    """Devices in lockstep with an honest cloud, in a plain loop that an attacker watches."""

    def __init__(self, learning_rate=0.02):
        images, labels = digits()
        self.auxiliary = LabelledImages(images[:200], labels[:200])
        self.x, self.labels = torch.tensor(images[200:900]), torch.tensor(labels[200:900])
        self.victims = torch.tensor(images[900:960])
        torch.manual_seed(1)
        self.front_end = FRONT_ENDS.create("cnn", DESIGN.options, image_shape=(1, 16, 16))
        name, options = self.front_end.cloud_model
        shape = self.front_end.feature_shape
        self.cloud = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=10)
        for layer in self.cloud.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        self.edge_optimiser = torch.optim.Adam(self.front_end.parameters(), learning_rate)
        self.cloud_optimiser = torch.optim.Adam(self.cloud.parameters(), 0.001)
        self.rng = torch.Generator().manual_seed(0)

    def training_attacker(self, name, **options):
        view = TrainingView(10, self.auxiliary, DESIGN, self.front_end.feature_shape)
        return ATTACKS.create(name, SHORT[name] | options).training_attacker(view, seed=7)

    def seen(self):
        """Return the cloud's view of one step, per device, and the devices' features."""
        chosen = torch.randperm(len(self.x), generator=self.rng)[: DEVICES * BATCH]
        self.front_end.train()
        z = self.front_end((self.x[chosen] - 0.3) / 0.35)
        received = z.detach().requires_grad_()
        targets = functional.one_hot(self.labels[chosen], 10).float()
        self.cloud.train()
        loss = functional.cross_entropy(self.cloud(received), targets)
        self.cloud_optimiser.zero_grad()
        loss.backward()
        self.cloud_optimiser.step()
        self.cloud.eval()
        return z, [part.split(BATCH) for part in (received.detach(), targets, received.grad)]

    def step(self, training_attacker):
        z, (features, targets, honest) = self.seen()
        sent = training_attacker.watch(WatchedStep(features, targets, honest, self.cloud))
        self.edge_optimiser.zero_grad()
        z.backward(torch.cat(list(sent or honest)))
        self.edge_optimiser.step()
        return honest, sent

    @torch.no_grad()
    def error(self, training_attacker):
        """Return the decoder's error on the victims, relative to the mean image's."""
        self.front_end.eval()
        rebuilt = training_attacker.decoded(self.front_end((self.victims - 0.3) / 0.35)).clamp(0, 1)
        mean = torch.tensor(self.auxiliary.images).mean(dim=0)
        blind = (self.victims - mean).square().mean()
        return float((rebuilt - self.victims).square().mean() / blind)


def test_the_losses_are_those_of_the_papers():
    assert float(taken_for_real(torch.zeros(3, 1, 2, 2))[1]) == pytest.approx(math.log(2.0))
    logit = torch.full((2, 1, 4, 4), 1.5)
    probability = 1.0 / (1.0 + math.exp(-1.5))
    assert taken_for_real(logit).tolist() == pytest.approx([-math.log(probability)] * 2)
    expected = -math.log(probability) - math.log(1.0 - probability)
    assert float(told_apart(logit, logit)) == pytest.approx(expected, rel=1e-5)
    assert float(told_apart(logit, -logit)) < float(told_apart(-logit, logit))


def test_a_discriminator_sees_the_class():
    judge = ClassDiscriminator(3, 4, 8, torch.Generator().manual_seed(0), halvings=1)
    samples = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    one, other = torch.eye(4)[[0, 0]], torch.eye(4)[[2, 2]]
    assert judge(samples, one).shape == (2, 1, 4, 4)
    assert not torch.equal(judge(samples, one), judge(samples, other))


def test_features_are_scaled_by_their_variation_between_samples():
    rng = torch.Generator().manual_seed(0)
    z = 5.0 + 3.0 * torch.randn(400, 2, 4, 4, generator=rng)
    z[:, 1] = torch.arange(16.0).reshape(4, 4)  # varies over space only: no information
    scale = FeatureScale(2)
    for part in z.split(100):
        scale.update(part)
    scaled = scale(z)
    assert float(scaled[:, 0].std()) == pytest.approx(1.0, abs=0.05)
    assert float(scaled[:, 0].mean()) == pytest.approx(0.0, abs=0.05)
    assert torch.equal(scaled[:, 1], torch.zeros(400, 4, 4))
    broken = torch.full((1, 2, 4, 4), float("nan"))
    assert torch.equal(scale(broken), torch.zeros(1, 2, 4, 4))


def test_the_simulator_decodes_and_changes_nothing():
    fleet = Fleet()
    training_attacker = fleet.training_attacker("sdar")
    start = fleet.error(training_attacker)
    for _ in range(20):
        _, sent = fleet.step(training_attacker)
        assert sent is None
    assert start > 0.95
    assert fleet.error(training_attacker) < 0.6


def test_the_malicious_cloud_steers_the_front_end_to_where_it_decodes():
    fleet = Fleet()
    training_attacker = fleet.training_attacker("fsha")
    for _ in range(80):
        honest, sent = fleet.step(training_attacker)
    assert fleet.error(training_attacker) < 0.6
    for one, other in zip(honest, sent, strict=True):
        # The norm is that of the honest gradient, the direction is not.
        assert float(one.norm()) == pytest.approx(float(other.norm()), rel=1e-4)
        cosine = functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
        assert abs(float(cosine)) < 0.5
    # The same decoder cannot decode devices that were trained honestly.
    left_alone = Fleet()
    for _ in range(80):
        z, (_, _, gradients) = left_alone.seen()
        left_alone.edge_optimiser.zero_grad()
        z.backward(torch.cat(list(gradients)))
        left_alone.edge_optimiser.step()
    assert left_alone.error(training_attacker) > 1.5 * fleet.error(training_attacker)


@pytest.mark.parametrize("name", ["sdar", "fsha"])
def test_a_training_attacker_resumes_from_its_state_with_the_same_bits(name):
    options = {"pilot_steps": 3} if name == "fsha" else {}
    first, fleet = Fleet(), Fleet()
    whole = first.training_attacker(name, **options)
    for _ in range(3):
        first.step(whole)
    before = fleet.training_attacker(name, **options)
    fleet.step(before)
    kept = {key: value.clone() for key, value in before.state().items()}
    after = fleet.training_attacker(name, **options)
    after.load_state(kept)
    for _ in range(2):
        fleet.step(after)
    expected, found = whole.state(), after.state()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
