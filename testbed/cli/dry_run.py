"""``--dry-run``: the resolved scenario, the sizes of its arms, and a time estimate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from testbed.cli.tables import table
from testbed.core.registries import ATTACKS
from testbed.engine.hosts.backend import default_hosts
from testbed.engine.network.costs import device_costs
from testbed.engine.setting.models import ArmModels, arm_models
from testbed.engine.setting.run_context import RunInputs, read_run_inputs
from testbed.engine.summary.host_facts import reference_rate
from testbed.engine.training.attackers import attacks_arm
from testbed.scenario.loading import dump_scenario
from testbed.scenario.schema import Scenario

START_S = 8.0  # libraries, hosts and report, measured on two cores
ATTACK_GMAC_PER_IMAGE = 0.05  # forward and backward of the default decoder, per image and epoch
ATTACK_EPOCHS = 40
FEWEST_PER_EPOCH = 320  # an epoch repeats few images several times
OVERHEAD = 1.3  # training time over its arithmetic, measured on two cores


@dataclass(frozen=True)
class Estimate:
    """Expected seconds of the phases of one arm on this machine."""

    train_s: float
    serve_s: float
    attack_s: float


def print_dry_run(scenario: Scenario, console: Console | None = None) -> None:
    """Print the resolved scenario, the fleet, the sizes of every arm and a time estimate.

    Raises
    ------
    UserError : the run could not start.
    """
    console = console or Console()
    inputs = read_run_inputs(scenario)
    models = [arm_models(inputs, arm) for arm in scenario.arms]
    console.print(Syntax(dump_scenario(scenario), "yaml", background_color="default"))
    console.print(_fleet(inputs))
    console.print(_arms(inputs, models))
    console.print(_data(inputs))
    for note in inputs.data.notes:
        console.print(f"data: {note}", markup=False, highlight=False)
    for warning in inputs.data.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    for text in optimiser_notes(scenario, models):
        console.print(f"note: {text}", style="yellow", markup=False, highlight=False)
    console.print(_time(scenario, inputs, models))
    console.print("dry run: nothing was written", style="dim")


def _fleet(inputs: RunInputs) -> Table:
    made = table("fleet", "class", "devices", "<models", "<links")
    for group in inputs.fleet.composition():
        models = ", ".join(f"{name} x {count}" for name, count in group.models.items())
        links = ", ".join(f"{name} x {count}" for name, count in group.links.items())
        made.add_row(group.device_class, str(group.devices), models, links)
    return made


def _arms(inputs: RunInputs, models: list[ArmModels]) -> Table:
    made = table(
        "arms (edge and cloud parameters and MACs per image; devices that can train and serve)",
        *("arm", "edge", "MACs", "features", "bytes", "cloud", "MACs", "train", "serve"),
    )
    for arm in models:
        costs = device_costs(inputs, arm)
        for tier in arm.used():
            item, members = arm.tiers[tier], arm.tier_of == tier
            stats, alone = item.edge_stats, len(arm.used()) == 1
            made.add_row(
                arm.arm if alone else f"{arm.arm}: {item.device_spec.tier} x {int(members.sum())}",
                f"{stats.params:,}",
                f"{stats.macs / 1e6:.2f} M",
                "x".join(str(size) for size in item.edge.front_end.feature_shape),
                f"{item.edge.payload_bytes:,}",
                f"{item.cloud_stats.params:,}",
                f"{item.cloud_stats.macs / 1e6:.2f} M",
                str(int(costs.training_feasible[members].sum())),
                _serving(inputs, costs.serving_feasible[members]),
            )
    return made


def _serving(inputs: RunInputs, feasible: NDArray[np.bool_]) -> str:
    fit, others = int(feasible.sum()), int((~feasible).sum())
    raw = inputs.scenario.fleet.infeasible == "offload_raw" and others
    return f"{fit} + {others} raw" if raw else str(fit)


def _data(inputs: RunInputs) -> Table:
    made = table("data", "part", "images")
    for name, size in inputs.data.parts.sizes().items():
        made.add_row(name, f"{size:,}")
    per_device = [len(rows) for rows in inputs.data.device_images]
    made.add_row("per device, fewest to most", f"{min(per_device)} to {max(per_device)}")
    served = np.bincount(inputs.data.victim_owner, minlength=len(per_device))
    made.add_row("victims per device, fewest to most", f"{served.min()} to {served.max()}")
    made.add_row(
        "victims of classes in their device's training images",
        f"{inputs.data.victims_of_own_classes:.0%}",
    )
    return made


def optimiser_notes(scenario: Scenario, models: Sequence[ArmModels]) -> list[str]:
    """Return what to know about the optimiser on the devices, if the fleet trains."""
    training = scenario.training
    if not training.fleet_rounds:
        return []
    notes, key, method = [], "training.edge_optimiser", training.edge_optimiser.method
    if method == "sign":
        notes.append(
            f"{key}: 'sign' is sign descent: every step moves every weight by the learning rate, "
            "however small its gradient is"
        )
    if method == "sgd" and training.edge_optimiser.momentum and training.local_steps == 1:
        notes.append(
            f"{key}.momentum: no effect with local_steps: 1, because the momentum of 'sgd' starts "
            "at zero every round"
        )
    for arm in models:
        edge = arm.main.edge
        moments = sum(value.nbytes for value in edge.initial_moments().values())
        weights = sum(value.nbytes for value in edge.own_parameters().values())
        if moments:
            whose = "the weights" if method == "adam" else "the defence's adversary"
            notes.append(
                f"{key}: the moments of Adam travel with {whose}: arm {arm.arm} sends "
                f"{(weights + moments) / 1000:,.0f} kB of weights and moments each way in a round, "
                f"instead of {weights / 1000:,.0f} kB"
            )
    return notes


def estimate(inputs: RunInputs, models: ArmModels, gmac_per_s: float) -> Estimate:
    """Estimate one arm's wall time from a measured rate of this machine, in one thread.

    A training step costs three forward passes; ``OVERHEAD`` covers the rest.
    """
    scenario = inputs.scenario
    cores = min(scenario.engine.hosts or default_hosts(), default_hosts())
    if scenario.engine.backend == "inline":
        cores = 1
    training = scenario.training
    per_round = training.cohort_size * training.local_steps * training.batch_size
    images: float = training.fleet_rounds * per_round
    if training.protocol == "provider":
        section = training.provider
        held = section.share_of_training * len(inputs.data.parts.training)
        epoch = held + len(inputs.data.parts.validation) / 3.0
        images += section.epochs * epoch * len(models.used())
    both = (models.main.edge_stats.macs + models.main.cloud_stats.macs) / 1e9
    parallel = min(cores, scenario.engine.cloud_threads)
    train_s = 3.0 * OVERHEAD * images * both / gmac_per_s / parallel
    pixels = torch.tensor(inputs.data.pool.images.shape[2:]).prod().item() / 32**2
    train_s += OVERHEAD * _training_attacks_gmac(scenario, models, pixels) / gmac_per_s
    parts = inputs.data.parts
    serve_s = len(parts.victims) * (both / gmac_per_s + 0.004)
    trained_images = sum(
        max(adversary.knowledge.auxiliary_share * len(parts.auxiliary), FEWEST_PER_EPOCH)
        for adversary in scenario.adversaries
        if not adversary.threat.watches_training
    )
    attack_s = ATTACK_EPOCHS * trained_images * ATTACK_GMAC_PER_IMAGE * pixels / gmac_per_s / cores
    return Estimate(train_s, serve_s, attack_s)


def _training_attacks_gmac(scenario: Scenario, models: ArmModels, pixels: float) -> float:
    """Return the work of the attacks that learn while the fleet trains, in one thread.

    A simulator trains a front-end, the cloud's task and a decoder at every step. A malicious cloud
    trains its pilot once and then only computes the pilot's features.
    """
    arm = next(item for item in scenario.arms if item.name == models.arm)
    edge, cloud = models.main.edge_stats.macs / 1e9, models.main.cloud_stats.macs / 1e9
    decoder = ATTACK_GMAC_PER_IMAGE * pixels
    steps = scenario.training.fleet_rounds * scenario.training.local_steps
    total = 0.0
    for adversary in scenario.adversaries:
        if not adversary.threat.watches_training or not attacks_arm(adversary, arm):
            continue
        options: Any = ATTACKS.options(adversary.attack.name, adversary.attack.options)
        watched = steps * options.updates_per_step * options.batch_size * len(models.used())
        if adversary.threat.steers_training:
            pilot = options.pilot_steps * options.batch_size * len(models.used())
            total += pilot * (3.0 * edge + decoder) + watched * edge
        else:
            total += watched * (3.0 * (edge + cloud) + decoder)
    return total


def _time(scenario: Scenario, inputs: RunInputs, models: list[ArmModels]) -> Table:
    rate = reference_rate(models[0].main).gmac_per_s
    made = table(
        f"estimated time on this machine ({rate:.0f} GMAC/s in one thread; within a factor of two)",
        *("arm", "train s", "serve s", "attack s"),
    )
    total = START_S
    for item in models:
        guess = estimate(inputs, item, rate)
        total += guess.train_s + guess.serve_s + guess.attack_s
        made.add_row(
            item.arm,
            f"{guess.train_s:.0f}",
            f"{guess.serve_s:.0f}",
            f"{guess.attack_s:.0f}",
        )
    made.add_row("with start and report", f"{total:.0f}", "", "")
    return made
