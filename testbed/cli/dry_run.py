"""``--dry-run``: the resolved scenario, the sizes of its arms, and a time estimate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from testbed.cli.run_time import RunTimes
from testbed.cli.tables import table
from testbed.core.plain_torch import plain_optimisers
from testbed.core.process import tune_malloc
from testbed.engine.attacking.memory import attack_bytes, check_memory
from testbed.engine.network.costs import device_costs
from testbed.engine.setting.batch_warnings import with_batch_warnings
from testbed.engine.setting.models import ArmModels, arm_models
from testbed.engine.setting.run_context import RunInputs, read_run_inputs
from testbed.results import formats
from testbed.scenario.loading import dump_scenario
from testbed.scenario.schema import Scenario

FACTOR = "measured: 0.8 to 1.2 times this"
"""Range over the runs of the table in docs/speed.md."""


def print_dry_run(scenario: Scenario, console: Console | None = None) -> None:
    """Print the resolved scenario, the fleet, the sizes of every arm and a time estimate.

    Raises
    ------
    UserError : the run could not start.
    """
    console = console or Console()
    tune_malloc()
    plain_optimisers()  # as in a run, because steps of the run are timed
    inputs = read_run_inputs(scenario)
    models = [arm_models(inputs, arm) for arm in scenario.arms]
    check_memory(inputs, models)
    inputs = with_batch_warnings(inputs, models)
    console.print(Syntax(dump_scenario(inputs.scenario), "yaml", background_color="default"))
    console.print(_fleet(inputs))
    console.print(_arms(inputs, models))
    console.print(_data(inputs))
    for note in inputs.data.notes:
        console.print(f"data: {note}", markup=False, highlight=False)
    for warning in (*inputs.machine_notes, *inputs.warnings):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    for text in optimiser_notes(scenario, models):
        console.print(f"note: {text}", style="yellow", markup=False, highlight=False)
    for made in _time(inputs, models):
        console.print(made)
    console.print("dry run: nothing was written", style="dim")


def _fleet(inputs: RunInputs) -> Table:
    made = table("fleet", "class", "devices", "<models", "<links")
    for group in inputs.fleet.composition():
        models = ", ".join(f"{name} x {count:,}" for name, count in group.models.items())
        links = ", ".join(f"{name} x {count:,}" for name, count in group.links.items())
        made.add_row(group.device_class, f"{group.devices:,}", models, links)
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
                arm.arm if alone else f"{arm.arm}: {item.device_spec.tier} x {members.sum():,}",
                f"{stats.params:,}",
                f"{stats.macs / 1e6:.2f} M",
                "x".join(str(size) for size in item.edge.front_end.feature_shape),
                f"{item.edge.payload_bytes:,}",
                f"{item.cloud_stats.params:,}",
                f"{item.cloud_stats.macs / 1e6:.2f} M",
                f"{costs.training_feasible[members].sum():,}",
                _serving(inputs, costs.serving_feasible[members]),
            )
    return made


def _serving(inputs: RunInputs, feasible: NDArray[np.bool_]) -> str:
    fit, others = int(feasible.sum()), int((~feasible).sum())
    raw = inputs.scenario.fleet.infeasible == "offload_raw" and others
    return f"{fit:,} + {others:,} raw" if raw else f"{fit:,}"


def _data(inputs: RunInputs) -> Table:
    made = table("data", "part", "images")
    for name, size in inputs.data.parts.sizes().items():
        made.add_row(name, f"{size:,}")
    per_device = inputs.data.device_images.lengths
    made.add_row("per device, fewest to most", f"{per_device.min()} to {per_device.max()}")
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
    sent = []
    for arm in models:
        edge = arm.main.edge
        moments = sum(value.nbytes for value in edge.initial_moments().values())
        weights = sum(value.nbytes for value in edge.own_parameters().values())
        if moments:
            sent.append(
                f"{arm.arm} {formats.size(weights + moments)} instead of {formats.size(weights)}"
            )
    if sent:
        whose = "the weights" if method == "adam" else "the weights of a defence's adversary"
        notes.append(
            f"{key}: the moments of Adam travel with {whose}; sent each way in a round: "
            + ", ".join(sent)
        )
    return notes


def _time(inputs: RunInputs, models: list[ArmModels]) -> list[Table]:
    """Return the expected times of the phases, and of each adversary's attack on all arms."""
    run = RunTimes(inputs)
    arms = {item.arm: run.arm(item) for item in models}
    phases = table(
        f"estimated time on this machine without other load, {run.cores} in parallel ({FACTOR})",
        *("arm", "train s", "serve s", "attack s"),
    )
    for name, times in arms.items():
        phases.add_row(name, *(f"{part:.0f}" for part in times.walls(run.cores)))
    phases.add_row("start, checks and report", f"{run.around_s():.0f}", "", "")
    phases.add_row("all", f"{run.total_s(arms.values()):.0f}", "", "")
    attacks = table(
        "of this, the attacks of each adversary on what it read",
        "adversary",
        "<attack",
        "all arms s",
        "images queried",
        "memory",
    )
    for adversary in inputs.scenario.adversaries:
        seconds = sum(times.by_adversary.get(adversary.name, 0.0) for times in arms.values())
        queries = sum(times.queries.get(adversary.name, 0) for times in arms.values())
        needed = [attack_bytes(inputs, item, adversary) for item in models]
        most = max((size for size in needed if size is not None), default=None)
        unknown = any(adversary.attack.name in times.unknown for times in arms.values())
        attacks.add_row(
            adversary.name,
            adversary.attack.name,
            "unknown, not counted" if unknown else f"{seconds / run.cores:.1f}",
            "unknown" if unknown else f"{queries:,}",
            "little or unknown" if most is None else formats.scaled(most, "B"),
        )
    return [phases, attacks] if inputs.scenario.adversaries else [phases]
