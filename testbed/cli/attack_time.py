"""How long the attacks, the bounds, the leakage measures and the scores of one arm take."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from testbed.adversaries.base import Attack, Evidence, Intercepts
from testbed.adversaries.effort import Effort, eigenvectors, products
from testbed.adversaries.training_attacker import TrainingAttack, TrainingView, WatchedStep
from testbed.cli.timed_arm import FEW, TimedArm
from testbed.core.registries import ATTACKS
from testbed.engine.attacking.error_bounds import (
    AFFORDABLE_MACS,
    CHECKED,
    POINTS,
    basis_rows,
)
from testbed.engine.attacking.leakage import INFORMATION_PAIRS, LEAKAGE_SAMPLES
from testbed.engine.network.training_tap import MAX_TRAINING_VICTIMS
from testbed.engine.setting.auxiliary_data import held_images
from testbed.engine.setting.positions import colluding_device, devices_read
from testbed.privacy.error_bounds import PROBES
from testbed.privacy.intervals import mean_interval
from testbed.privacy.judge import COMPONENTS, MAX_IMAGES
from testbed.privacy.leakage import measure_leakage
from testbed.privacy.mutual_information import ESTIMATORS, CriticTraining, estimate_information
from testbed.privacy.scores import score
from testbed.privacy.unseen import ROWS_PER_DIMENSION, unseen_macs
from testbed.scenario.adversary import Adversary

ANCHORS = 2  # the mean images, which are scored with every adversary
ROW_PASSES = 1.4  # time of a row of a Jacobian, in releases of an image
FIGURES = 4  # scores with an interval from resamples
GROUPINGS = 4  # all victims, and those of every class of device, link and tier
SMALL = 64  # images of the measures whose time grows with the square of their number


class AttackTimes:
    """Times of what follows the serving of an arm.

    Parameters
    ----------
    answered : expected share of the requests that are answered.

    Attributes
    ----------
    queries : expected images queried, by adversary.
    """

    def __init__(self, arm: TimedArm, answered: float) -> None:
        self._arm, self._answered = arm, answered
        self._scenario, self._data = arm.scenario, arm.inputs.data
        self._victims = len(self._data.parts.victims)
        self.queries: dict[str, int] = {}

    def effort_s(self, place: int, efforts: list[Effort]) -> float:
        """Return the time of an attack's steps."""
        arm = self._arm
        return sum(
            effort.times
            * (
                arm.seconds(place, effort.what, effort.step)
                if effort.of_arm
                else arm.watch.seconds(effort.what, effort.step)
            )
            for effort in efforts
        )

    # Attacks -------------------------------------------------------------------------------------

    def attack_s(self, adversary: Adversary) -> float | None:
        """Return the time of an adversary's own attack on all tiers; None: unknown.

        The images that it queries are added to ``queries``.
        """
        attack: Attack = ATTACKS.create(adversary.attack.name, adversary.attack.options)
        total = 0.0
        amount = 1.0 + sum(adversary.curve)
        training = self._scenario.training
        rounds = len(adversary.rounds_attacked(training.fleet_rounds))
        for place, number in enumerate(self._arm.numbers):
            intercepts = self._intercepts(adversary, place)
            holds = self._holds_weights(adversary, number)
            if intercepts == 0 or not adversary.can_attack(holds):
                continue
            evidence = self._evidence(adversary, place, holds)
            if rounds:
                sent = training.cohort_size * training.local_steps * training.batch_size
                victims = min(MAX_TRAINING_VICTIMS, round(self._arm.shares[place] * sent))
                on_training = attack.effort(replace(evidence, replays=1), victims)
                if on_training is None:
                    return None
                total += rounds * self.effort_s(place, on_training)
                self._count(adversary, holds, rounds, on_training)
            if not adversary.attacks_serving:
                continue
            smoothed = CHECKED if self._noise(place) is not None else 0
            efforts = attack.effort(evidence, intercepts + smoothed)
            if efforts is None:
                return None
            total += amount * self.effort_s(place, efforts)
            self._count(adversary, holds, amount, efforts)
            replays = adversary.knowledge.replays
            if replays > 1:
                total += replays * (intercepts + smoothed) * self._arm.release_s(place)
        return total

    def _count(
        self, adversary: Adversary, holds_weights: bool, mounted: float, efforts: list[Effort]
    ) -> None:
        """Add the queries of an attack that is mounted several times, each within its limit."""
        images = sum(effort.times * effort.images for effort in efforts)
        if adversary.query_limit is not None and not holds_weights:
            images = min(images, adversary.query_limit)
        before = self.queries.get(adversary.name, 0)
        self.queries[adversary.name] = before + round(mounted * images)

    def training_attack_s(self, adversary: Adversary) -> float:
        """Return the time of an attack at the cloud beside the training of the fleet."""
        attack = ATTACKS.create(adversary.attack.name, adversary.attack.options)
        assert isinstance(attack, TrainingAttack)
        training = self._scenario.training
        steps, batch = training.fleet_rounds * training.local_steps, training.batch_size
        total = 0.0
        for place, number in enumerate(self._arm.numbers):
            tier = self._arm.tiers[place]
            count = max(1, round(self._arm.shares[place] * training.cohort_size)) * batch
            features = self._arm.features(place, count)
            classes = torch.nn.functional.one_hot(torch.arange(count) % self._arm.classes)
            auxiliary, _ = held_images(
                adversary, self._data, self._arm.inputs.foreign, self._scenario.seed
            )
            view = TrainingView(
                self._arm.classes,
                auxiliary.first(2 * FEW),
                tier.device_spec.front_end,
                tier.edge.front_end.feature_shape,
            )
            step = WatchedStep(
                [features],
                [classes.float()],
                [torch.zeros_like(features)],
                partial(self._arm.cloud.model, tier=number),
            )
            total += self.effort_s(place, attack.training_effort(view, step, steps))
        return total

    def _intercepts(self, adversary: Adversary, place: int) -> int:
        """Return how many answered requests of a tier the adversary reads."""
        inputs = self._arm.inputs
        read = devices_read(
            adversary.name,
            adversary.position,
            inputs.fleet,
            self._scenario.seed,
            self._scenario.fleet.devices_per_access_point,
        )
        members = self._arm.models.tier_of == self._arm.numbers[place]
        members[[device for device in range(len(members)) if device not in read]] = False
        return round(self._answered * int(members[self._data.victim_owner].sum()))

    def _holds_weights(self, adversary: Adversary, tier: int) -> bool:
        fleet, seed = self._arm.inputs.fleet, self._scenario.seed
        own = colluding_device(adversary.name, adversary.position, len(fleet), seed)
        colludes = own is not None and self._arm.models.tier_of[own] == tier
        return bool(adversary.knowledge.weights or colludes)

    def _evidence(self, adversary: Adversary, place: int, holds_weights: bool) -> Evidence:
        needs, knowledge = adversary.threat, adversary.knowledge
        auxiliary, validation = held_images(
            adversary, self._data, self._arm.inputs.foreign, self._scenario.seed
        )
        return Evidence(
            num_classes=self._arm.classes,
            auxiliary=auxiliary,
            auxiliary_validation=validation,
            intercepts=Intercepts(
                self._arm.features(place, FEW).numpy(), np.zeros(FEW, dtype=np.int64)
            ),
            oracle=self._arm.oracles[place] if needs.queries else None,
            query_limit=None if holds_weights else adversary.query_limit,
            architecture=self._arm.tiers[place].device_spec.front_end
            if needs.architecture and knowledge.architecture
            else None,
            replays=knowledge.replays,
        )

    # Measures and scores -------------------------------------------------------------------------

    def _noise(self, place: int) -> float | None:
        noise_std: float | None = self._arm.oracles[place].runner.defence.equivalent_noise_std()
        return noise_std

    def measures_s(self, place: int) -> float:
        """Return the time of the leakage measures and the error bound of a tier."""
        images = np.resize(self._arm.images, (SMALL, *self._arm.images.shape[1:]))
        features = self._arm.features(place, SMALL).numpy()
        samples = min(LEAKAGE_SAMPLES, self._victims)
        shape = features.shape[1:]
        once = self._arm.watch.seconds(
            ("leakage", shape), partial(measure_leakage, images, features)
        )
        total = once * (samples / SMALL) ** 2
        if self._scenario.evaluation.mutual_information:
            total += self._information_s(place)
        return total + self._bound_s(place)

    def _information_s(self, place: int) -> float:
        parts = self._data.parts
        auxiliary = len(parts.auxiliary) + len(parts.auxiliary_validation)
        pairs = 4 * min(self._victims, auxiliary // 3, INFORMATION_PAIRS // 4)
        training = CriticTraining(epochs=1)
        if pairs < training.fewest_pairs:
            return 0.0
        few = training.fewest_pairs
        images = np.resize(self._arm.images, (few, *self._arm.images.shape[1:]))
        features = self._arm.features(place, few).numpy()
        step = partial(estimate_information, images, features, "infonce", 0, training)
        once = self._arm.watch.seconds(("information", features.shape[1:]), step)
        return len(ESTIMATORS) * CriticTraining().epochs * once * pairs / few

    def _bound_s(self, place: int) -> float:
        """Return the time of the error bound, by its rows of Jacobians."""
        tier = self._arm.tiers[place]
        d: int = self._arm.images[0].size
        macs = tier.edge_stats.macs
        if tier.device_spec.precision == "int8":
            return 0.0
        points, rows, size = min(POINTS, self._victims), 0.0, 0
        if self._noise(place) is not None:
            basis = basis_rows(d, macs)
            rows, size = basis + points * PROBES, d if basis else 0
        elif unseen_macs(d, macs) > AFFORDABLE_MACS:
            return 0.0
        else:
            # The first points usually show every direction; else there are up to three times more.
            rows = ROWS_PER_DIMENSION * d
        algebra = self.effort_s(place, [products(rows * d * d), eigenvectors(size)])
        return rows * ROW_PASSES * self._arm.release_s(place) + algebra

    def scores_s(self, adversaries: int) -> float:
        """Return the time of the judge, and of the scores of all attacks and their intervals."""
        data, count = self._data, round(self._answered * self._victims)
        rows = data.parts.training if data.pool.labels_are_persons else data.parts.auxiliary
        n, d = min(len(rows), MAX_IMAGES), self._arm.images[0].size
        judge = products(8 * max(n, d) * min(n, d) ** 2 + 16 * n * n * COMPONENTS)
        images = self._arm.images
        once = self._arm.watch.seconds(
            "scores", partial(score, images, images, images, np.arange(len(images)))
        )
        resamples = self._scenario.evaluation.bootstrap_resamples
        interval = self._arm.watch.seconds(
            "interval", partial(mean_interval, np.linspace(0.0, 1.0, max(2, count)), resamples, 0)
        )
        # One grouping has as many victims in all of its groups as there are.
        nearest = self.effort_s(0, [products(count * self._victims * d)])
        each = once * count / len(images) + nearest + FIGURES * GROUPINGS * interval
        return self.effort_s(0, [judge]) + adversaries * (1 + ANCHORS) * each
