"""How long a run will take on this machine: steps that are timed here, times their number.

Each part of a run is a few kinds of steps. One step of each kind is executed with initial weights
and made-up features, and timed in one thread (``testbed.cli.stopwatch``).
"""

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from server.edge_interface import ProviderTier
from server.machine import threads_of
from server.provider import ProviderTraining
from testbed.cli.attack_time import AttackTimes
from testbed.cli.stopwatch import Stopwatch
from testbed.cli.timed_arm import TimedArm
from testbed.core.compute import compute_device
from testbed.core.seeds import torch_generator
from testbed.core.threads import available_cores, one_thread
from testbed.engine.hosts.backend import default_hosts
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.engine.training.attackers import at_training, attacks_arm
from testbed.engine.training.provider import provider_images

MESSAGE_S = 0.001
"""Processor time of a message to a device and its reply, beside the computation."""
ENROL_S = 0.0001
"""The same of the message that asks every device of the fleet for its number of images."""
THREADED = 1.5
"""Speed of the cloud model and of the provider's training in two threads or more, against one."""
RAY_START_S = 6.0
CHECKS_S = 0.8  # of the attacks, before every run
REPORT_S, REPORT_PER_ATTACK_S = 1.2, 0.06
VIRTUAL_S = (0.0, 600.0, 3600.0)  # when the availability of devices is looked at


@dataclass(frozen=True)
class Seconds:
    """Processor seconds: on the hosts in parallel, and in the server one after another."""

    parallel: float = 0.0
    serial: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.parallel + other.parallel, self.serial + other.serial)

    def wall(self, cores: int) -> float:
        """Return the seconds on a machine with nothing else to do."""
        return self.parallel / cores + self.serial


@dataclass(frozen=True)
class ArmTimes:
    """Expected times of the phases of one arm.

    Attributes
    ----------
    by_adversary : of the adversaries' own attacks on intercepts; part of ``attack``.
    unknown : attacks whose work is unknown, and in none of the times.
    queries : expected images queried, by adversary.
    """

    train: Seconds
    serve: Seconds
    attack: Seconds
    by_adversary: dict[str, float] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    queries: dict[str, int] = field(default_factory=dict)

    def walls(self, cores: int) -> list[float]:
        """Return the wall times of training, serving and attacks, in seconds."""
        return [part.wall(cores) for part in (self.train, self.serve, self.attack)]


class RunTimes:
    """Expected times of a run on this machine.

    Attributes
    ----------
    cores : hosts that work at the same time.
    """

    def __init__(self, inputs: RunInputs, watch: Stopwatch | None = None) -> None:
        engine = inputs.scenario.engine
        self._inputs, self._watch = inputs, watch or Stopwatch()
        self.cores = min(engine.hosts or default_hosts(), default_hosts())
        if engine.backend == "inline":
            self.cores = 1
        self._cloud_speed = _speed(engine.cloud_threads)
        online, devices = inputs.online(), range(min(100, len(inputs.fleet)))
        asked = [[online(d, at_s, n) for d in devices] for n, at_s in enumerate(VIRTUAL_S)]
        self._online = float(np.mean(asked))

    def around_s(self) -> float:
        """Return the time of the start, the checks and the report, with this process's so far."""
        scenario = self._inputs.scenario
        attacks = 3 * len(scenario.arms) * len(scenario.adversaries)
        ray = 0.0 if scenario.engine.backend == "inline" else RAY_START_S
        return time.process_time() + ray + CHECKS_S + REPORT_S + REPORT_PER_ATTACK_S * attacks

    def total_s(self, arms: Iterable[ArmTimes]) -> float:
        """Return the wall time of the whole run."""
        return self.around_s() + sum(sum(times.walls(self.cores)) for times in arms)

    def arm(self, models: ArmModels) -> ArmTimes:
        """Return the times of one arm."""
        with one_thread():
            return self._arm(models)

    def _arm(self, models: ArmModels) -> ArmTimes:
        arm = TimedArm(self._inputs, models, self._watch)
        attacks = AttackTimes(arm, self._online)
        scenario = self._inputs.scenario
        own = next(item for item in scenario.arms if item.name == models.arm)
        train = self._at_provider(arm) if scenario.training.protocol == "provider" else Seconds()
        if scenario.training.fleet_rounds:
            train += self._on_fleet(arm)
            for adversary in at_training(scenario, own):
                train += Seconds(serial=attacks.training_attack_s(adversary))
        found = {
            adversary.name: attacks.attack_s(adversary)
            for adversary in scenario.adversaries
            if attacks_arm(adversary, own)
        }
        unknown = [
            item.attack.name for item in scenario.adversaries if found.get(item.name, 0.0) is None
        ]
        by_adversary = {name: seconds or 0.0 for name, seconds in found.items()}
        after = sum(attacks.measures_s(place) for place in range(len(arm.tiers)))
        return ArmTimes(
            train,
            self._serving(arm),
            Seconds(sum(by_adversary.values()), after + attacks.scores_s(len(found))),
            by_adversary,
            tuple(unknown),
            attacks.queries,
        )

    def _on_fleet(self, arm: TimedArm) -> Seconds:
        training, data = self._inputs.scenario.training, self._inputs.data
        taking_part = self._online * training.cohort_size
        steps = training.fleet_rounds * training.local_steps
        images = max(1, round(taking_part * training.batch_size))
        messages = 2 * steps * taking_part * MESSAGE_S + ENROL_S * len(self._inputs.fleet)
        devices = steps * taking_part * arm.mean(arm.device_step_s)
        cloud = steps * arm.mean(lambda place: arm.cloud_step_s(place, images))
        evaluations = 1 + training.fleet_rounds // training.evaluate_every_rounds
        evaluated = evaluations * len(data.parts.validation)
        cloud += evaluated * sum(
            arm.release_s(place) + arm.answer_s(place) for place in range(len(arm.tiers))
        )
        parallel = min(self.cores, training.cohort_size / self._inputs.scenario.engine.shard_size)
        return Seconds(
            devices * self.cores / max(1.0, parallel), messages + cloud / self._cloud_speed
        )

    def _at_provider(self, arm: TimedArm) -> Seconds:
        section, images = self._inputs.scenario.training.provider, provider_images(self._inputs)
        device = compute_device()
        tiers = [
            ProviderTier(tier.device_spec.build(), number, share)
            for tier, number, share in zip(arm.tiers, arm.numbers, arm.shares, strict=True)
        ]
        training = ProviderTraining(
            section, 0, tiers, copy.deepcopy(arm.models.cloud), images, device
        )
        size = min(section.batch_size, len(images.images))
        x = torch.from_numpy(images.images[:size]).to(device).float().div_(255.0)
        labels, rng = torch.from_numpy(images.labels[:size]), torch_generator(0, "dry run")
        step = partial(training.joint.step, x, labels, rng)
        training.train_mode(True)
        once = self._watch.seconds((arm.models.arm, "provider's step"), step)
        evaluated = section.epochs * len(images.validation_labels)
        forward = sum(arm.release_s(place) + arm.answer_s(place) for place in range(len(tiers)))
        steps = section.epochs * len(images.images) / size
        return Seconds(serial=(steps * once + evaluated * forward) / _speed(threads_of(section)))

    def _serving(self, arm: TimedArm) -> Seconds:
        answered = self._online * len(self._inputs.data.parts.victims)
        return Seconds(
            answered * arm.mean(arm.release_s),
            answered * (arm.mean(arm.answer_s) + 2 * MESSAGE_S),
        )


def _speed(threads: int) -> float:
    """Return how much faster this many threads are than one, on the cores of this machine."""
    return THREADED if min(threads, available_cores()) > 1 else 1.0
