"""Trains one arm on the fleet: the ServerApp on a FleetGrid, checkpoints and evaluation."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clients.deployed import CHUNK, DeployedFrontEnd
from clients.device_spec import deployable
from server.aggregation import Tier
from server.cloud import Cloud
from server.split_federated import RoundRecord, SplitFederated
from testbed.core.errors import UserError
from testbed.core.registries import STRATEGIES
from testbed.core.seeds import torch_generator
from testbed.core.state_dicts import below, under
from testbed.core.threads import torch_threads
from testbed.data.federated import to_unit
from testbed.engine.hosts.host import device_of
from testbed.engine.network.grid import FleetGrid, run_server_app
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunContext
from testbed.engine.setting.tiers import NodeTiers
from testbed.engine.training import checkpoint
from testbed.engine.training.attackers import TrainingAttacks, arm_training_attacks
from testbed.scenario.schema import Scenario

TOTALS = ("stragglers", "offline", "failed", "uplink_bytes", "downlink_bytes")
ELIGIBLE = "eligible"  # not in the JSON of a checkpoint: there may be a million
_LOG = logging.getLogger(__name__)


@dataclass
class TrainedArm:
    """An arm during and after its training.

    Attributes
    ----------
    rounds : rows of rounds.parquet; a provider's epochs come first.
    provider : the provider's training as in results.json, if there was one.
    training_attacks : the adversaries at the cloud during the training, if any.
    """

    server: SplitFederated
    cloud: Cloud
    grid: FleetGrid
    models: ArmModels
    rounds: list[dict[str, Any]] = field(default_factory=list)
    provider: dict[str, Any] | None = None
    training_attacks: TrainingAttacks | None = None

    def deployed(self, tier: int) -> DeployedFrontEnd:
        """Return one tier's front-end as it is now."""
        kept = self.server.tiers[tier]
        return DeployedFrontEnd(
            self.models.tiers[tier].device_spec,
            {name: value.numpy() for name, value in deployable(kept.parameters).items()},
            {name: value.numpy() for name, value in kept.statistics.items()},
        )


def prepare(run_context: RunContext, models: ArmModels, grid: FleetGrid) -> TrainedArm:
    """Return an arm before its first round, with the attackers of its training."""
    scenario = run_context.inputs.scenario
    server = new_server(scenario, models)
    server.can_train = lambda node, tier: grid.costs.can_train(device_of(node), tier)
    arm = next(arm for arm in scenario.arms if arm.name == models.arm)
    server.attackers = training_attacks = arm_training_attacks(
        run_context.inputs, arm, models, server.cloud
    )
    return TrainedArm(server, server.cloud, grid, models, training_attacks=training_attacks)


def new_server(scenario: Scenario, models: ArmModels) -> SplitFederated:
    """Return an arm's server before its first round, for any Grid."""
    training = scenario.training
    training = training.model_copy(update={"rounds": training.fleet_rounds})
    cloud = Cloud(
        models.cloud, training.cloud_optimiser, scenario.seed, scenario.engine.cloud_threads
    )
    tiers = [
        Tier(
            STRATEGIES.create(training.strategy.name, training.strategy.options),
            *tier.edge.initial_weights(),
            tier.edge.initial_moments(),
            tier.device_spec.tier,
        )
        for tier in models.tiers
    ]
    return SplitFederated(
        training,
        scenario.seed,
        cloud,
        tiers,
        NodeTiers(models.tier_of),
        scenario.engine.shard_size,
    )


def train(run_context: RunContext, arm: TrainedArm) -> None:
    """Run the remaining rounds as a Flower ServerApp, writing checkpoints and reporting."""
    folder = run_context.folder / "checkpoints" / arm.models.arm
    total = arm.server.training.rounds
    run_context.progress.advance(arm.server.next_round - 1)

    def on_round(record: RoundRecord) -> None:
        row = _round_row(run_context, arm, record)
        arm.rounds.append(row)
        if record.server_round % arm.server.training.checkpoint_every_rounds == 0 or (
            record.server_round == total
        ):
            _save(arm, folder, record.server_round)
        accuracy = row["validation_accuracy"]
        note = f"round {record.server_round}/{total}"
        if accuracy is not None:
            note += f", validation accuracy {accuracy:.1%}"
        run_context.progress.advance(1, note)

    run_server_app(arm.grid, lambda grid: arm.server.train(grid, on_round))
    arm.grid.end_training()


def _round_row(run_context: RunContext, arm: TrainedArm, record: RoundRecord) -> dict[str, Any]:
    ledger, before = arm.grid.ledger, (arm.rounds[-1] if arm.rounds else None)
    training = arm.server.training
    counted = {name: ledger.counted(name) for name in TOTALS[:3]}
    totals = counted | {
        "uplink_bytes": int(ledger.total("train", "uplink_bytes")),
        "downlink_bytes": int(ledger.total("train", "downlink_bytes")),
    }
    loss, accuracy = None, None
    due = record.server_round % training.evaluate_every_rounds == 0
    if due or record.server_round == training.rounds:
        loss, accuracy = evaluate(run_context, arm)
    row: dict[str, Any] = {
        "arm": arm.models.arm,
        "protocol": "split_federated",
        "round": record.server_round + (arm.provider["epochs"] if arm.provider else 0),
        "virtual_s": arm.grid.clock_ms / 1000.0,
        "training_loss": record.training_loss,
        "penalty": record.penalty,
        "training_accuracy": record.training_accuracy,
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "cohort": record.cohort,
        "participants": record.participants,
        "unused": record.unused,
    }
    for name, value in totals.items():
        row[name] = value - (before["total_" + name] if before else 0)
        row["total_" + name] = value
    row["failed"] += record.rejected
    return row


def evaluate(run_context: RunContext, arm: TrainedArm) -> tuple[float, float]:
    """Return cross-entropy and accuracy of the current model on the validation images.

    Each tier is evaluated on all of them, and counts by its share of the devices.
    """
    data = run_context.inputs.data
    rows = data.parts.validation
    labels = torch.from_numpy(data.pool.labels[rows])
    losses, accuracies = 0.0, 0.0
    for tier in arm.models.used():
        features = released_features(arm, data.pool.images[rows], tier)
        log_probabilities = arm.cloud.answer(features, tier)
        share = arm.models.share(tier)
        losses += share * float(functional.nll_loss(log_probabilities, labels))
        correct = log_probabilities.argmax(dim=1) == labels
        accuracies += share * float(correct.float().mean())
    return losses, accuracies


def released_features(arm: TrainedArm, images: np.ndarray[Any, Any], tier: int) -> Tensor:
    """Return what a tier's current front-end releases for uint8 images (N, C, H, W)."""
    runner = arm.deployed(tier).runner
    rng = torch_generator(arm.models.tiers[tier].device_spec.seed, "evaluation")
    with torch_threads(arm.cloud.threads), torch.no_grad():
        return torch.cat(
            [
                runner.released(torch.from_numpy(to_unit(images[start : start + CHUNK])), rng).cpu()
                for start in range(0, len(images), CHUNK)
            ]
        )


def _save(arm: TrainedArm, folder: Path, server_round: int) -> None:
    tensors = under("cloud.", arm.cloud.state())
    for number, tier in enumerate(arm.server.tiers):
        kept = under("front_end.", tier.parameters) | under("statistics.", tier.statistics)
        kept |= under("moments.", tier.moments)
        kept |= checkpoint.strategy_state(tier.strategy)
        tensors |= under(f"tier.{number}.", kept)
    if arm.training_attacks is not None:
        tensors |= under("training_attacks.", arm.training_attacks.state())
    tensors[ELIGIBLE] = torch.from_numpy(arm.server.eligible)
    grid_tensors, grid_state = arm.grid.state()
    tensors |= under("grid.", grid_tensors)
    state = {
        "round": server_round,
        "aggregated_rounds": [tier.aggregated_rounds for tier in arm.server.tiers],
        "moment_steps": [tier.moment_steps for tier in arm.server.tiers],
        "rounds": arm.rounds,
        "provider": arm.provider,
        "grid": grid_state,
    }
    checkpoint.save(folder, server_round, tensors, state)


def restore(arm: TrainedArm, folder: Path, say: Callable[[str], None] = lambda text: None) -> bool:
    """Continue from the newest readable checkpoint; return whether there was one.

    Parameters
    ----------
    say : receives a sentence for every damaged one.

    Raises
    ------
    UserError : it is intact but belongs to another run.
    """
    found = checkpoint.load_latest(folder, say)
    if found is None:
        return False
    try:
        _continue(arm, *found)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: its checkpoints belong to another run ({error!r:.200}); remove them, or "
            "start anew with --force"
        ) from None
    _LOG.info("continuing %s after round %d", arm.models.arm, found[1]["round"])
    return True


def _continue(arm: TrainedArm, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Restore an arm's state."""
    for number, tier in enumerate(arm.server.tiers):
        kept = below(f"tier.{number}.", tensors)
        # In the model's order: the file is sorted, and the order of a sum sets its bits.
        parameters, statistics = below("front_end.", kept), below("statistics.", kept)
        moments = below("moments.", kept)
        tier.parameters = {name: parameters[name] for name in tier.parameters}
        tier.statistics = {name: statistics[name] for name in tier.statistics}
        tier.moments = {name: moments[name] for name in tier.moments}
        checkpoint.load_strategy_state(tier.strategy, kept)
        tier.aggregated_rounds = state["aggregated_rounds"][number]
        tier.moment_steps = state["moment_steps"][number]
    arm.cloud.load_state(below("cloud.", tensors))
    if arm.training_attacks is not None:
        arm.training_attacks.load_state(below("training_attacks.", tensors))
    arm.grid.load_state(below("grid.", tensors), state["grid"])
    arm.rounds = state["rounds"]
    arm.provider = state["provider"]
    arm.server.eligible = tensors[ELIGIBLE].numpy()
    arm.server.next_round = state["round"] + 1
