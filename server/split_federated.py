"""Split-federated training as a Flower ServerApp.

One round sends the front-end to a cohort. For every local step the cloud receives features, updates
its shared model, and returns to each device the gradient of its features. Then a Flower strategy
aggregates the front-ends. Follows SplitFed (arXiv 2004.12088), variant 2, with one cloud model.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from server.aggregation import Tier, has_metrics, metric
from server.broadcast import ask_all
from server.cloud import Cloud
from server.places import TrainingPlaces
from server.training_step import CloudAttackers, TrainingStep
from testbed.core.errors import UserError
from testbed.core.layers import MIN_BATCH
from testbed.core.seeds import generator
from testbed.scenario.schema import EngineSection
from testbed.scenario.training import TrainingSection
from testbed.wire import protocol
from testbed.wire.encoding import decode
from testbed.wire.records import record_in, to_record, to_tensors
from testbed.wire.sums import shard_numbers


@dataclass(frozen=True)
class RoundRecord:
    """The server's measurements of a round; means over the steps.

    Attributes
    ----------
    participants : devices whose front-ends were aggregated.
    unused : devices whose front-ends were not, since the strategy needs more of them.
    """

    server_round: int
    training_loss: float | None
    training_accuracy: float | None
    penalty: float | None
    cohort: int
    participants: int
    rejected: int
    unused: int


class _CohortView:
    """A Grid with the nodes of the cohort only, from which a strategy samples."""

    def __init__(self, grid: Grid, cohort: list[int]) -> None:
        self._grid = grid
        self._cohort = cohort

    def get_node_ids(self) -> Iterable[int]:
        return list(self._cohort)

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)


class SplitFederated:
    """The training loop and its state.

    Parameters
    ----------
    cloud : the shared cloud model, with entry layers for each tier.
    tiers : the front-ends, one per tier of the fleet.
    tier_of : the tier of each node, 0 for nodes that are not listed.
    shard_size : devices of a cohort that are added up before the next ones.

    Attributes
    ----------
    eligible : nodes that enrolled, which can train and hold enough images.
    can_train : (node, tier) -> whether the tier's front-end fits the node's memory in training.
    attackers : attackers at the cloud during training; may replace the devices' gradients.
    """

    def __init__(
        self,
        training: TrainingSection,
        seed: int,
        cloud: Cloud,
        tiers: Sequence[Tier],
        tier_of: Mapping[int, int] | None = None,
        shard_size: int = EngineSection().shard_size,
    ) -> None:
        self.training = training
        self.cloud = cloud
        self.tiers = list(tiers)
        self.tier_of: Mapping[int, int] = tier_of or {}
        self.next_round = 1
        self.eligible: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.can_train: Callable[[int, int], bool] = lambda node, tier: True
        self.attackers: CloudAttackers | None = None
        self._seed = seed
        self._shard_size = shard_size

    def train(self, grid: Grid, on_round: Callable[[RoundRecord], None]) -> None:
        """Enrol the devices, run the remaining rounds and report each of them."""
        if not len(self.eligible):
            self.eligible = self._enrol(grid)
        if not len(self.eligible):
            raise UserError(
                "no device can train this front-end: all are infeasible or hold fewer than "
                f"{MIN_BATCH} images; change fleet.mix, data or the arm's front_end"
            )
        places = self._places()
        while self.next_round <= self.training.rounds:
            record = self._round(grid, self.next_round, places)
            self.next_round += 1
            on_round(record)

    def learning_rate_scale(self, server_round: int) -> float:
        """Return the factor on both learning rates in a round (from 1)."""
        if self.training.learning_rate_schedule == "constant":
            return 1.0
        done = (server_round - 1) / self.training.rounds
        return 0.5 * (1.0 + math.cos(math.pi * done))

    def _enrol(self, grid: Grid) -> NDArray[np.int64]:
        """Query every node's number of images; nodes that cannot train reply with an error."""
        eligible = [np.empty(0, dtype=np.int64)]
        for answer in ask_all(grid, protocol.ENROL, [RecordDict()], self.tier_of):
            reply = answer.reply
            if (
                reply.has_content()
                and has_metrics(reply, protocol.NUM_EXAMPLES)
                and metric(reply, protocol.NUM_EXAMPLES) >= MIN_BATCH
            ):
                eligible.append(answer.nodes)
        return np.sort(np.concatenate(eligible))

    def _cohort(self, server_round: int) -> list[int]:
        size = min(self.training.cohort_size, len(self.eligible))
        rng = generator(self._seed, "cohort", server_round)
        chosen = rng.choice(self.eligible, size, replace=False)
        return sorted(int(node) for node in chosen)

    def _places(self) -> TrainingPlaces:
        """Return who trains which tier.

        Raises
        ------
        UserError : no device can train a tier, which would serve with its first weights.
        """
        places = TrainingPlaces(
            self.eligible, self.tier_of, len(self.tiers), self.can_train, self._seed
        )
        if places.untrained and self.training.protocol == "split_federated":
            raise UserError(
                f"fleet: no device can train the front-end of tier "
                f"'{self.tiers[places.untrained[0]].name}', which would serve untrained; give the "
                "tier a smaller front-end, or fleet.mix a device that can train it"
            )
        return places

    def _round(self, grid: Grid, server_round: int, places: TrainingPlaces) -> RoundRecord:
        cohort = self._cohort(server_round)
        tiers = places.of(cohort, server_round)
        first = self._first_contents(grid, server_round, tiers)
        self.cloud.scale_learning_rate(self.learning_rate_scale(server_round))
        active, rejected = cohort, 0
        losses: list[float] = []
        accuracies: list[float] = []
        penalties: list[float] = []
        replies: dict[int, Message] = {}
        for step in range(self.training.local_steps):
            replies = self._exchange(
                grid,
                server_round,
                protocol.FORWARD,
                {n: self._forward(first, n, step) for n in active},
            )
            features = {node: self._checked(reply, tiers[node]) for node, reply in replies.items()}
            active = [node for node in active if features.get(node) is not None]
            rejected += len(features) - len(active)
            if not active:
                break
            batches = [batch for node in active if (batch := features[node]) is not None]
            sent, targets = [z for z, _ in batches], [wanted for _, wanted in batches]
            of_tiers = [tiers[node] for node in active]
            result = self.cloud.step(sent, targets, server_round, step, of_tiers)
            gradients: Sequence[Tensor] = result.gradients
            if self.attackers is not None:
                gradients = self.attackers.gradients(
                    TrainingStep(server_round, step, sent, targets, gradients, of_tiers)
                )
            losses.append(result.loss)
            accuracies.append(result.accuracy)
            contents = {
                node: self._backward(server_round, step, gradient, tiers[node])
                for node, gradient in zip(active, gradients, strict=True)
            }
            replies = self._exchange(grid, server_round, protocol.BACKWARD, contents)
            answered = len(replies)
            replies = {n: r for n, r in replies.items() if has_metrics(r, protocol.PENALTY)}
            rejected += answered - len(replies)
            active = [node for node in active if node in replies]
            penalties.extend(metric(reply, protocol.PENALTY) for reply in replies.values())
        accepted, unused = 0, 0
        uniform = self.training.device_weights == "uniform"
        shard_of = shard_numbers(cohort, self._shard_size)
        for number, tier in enumerate(self.tiers):
            sound = [
                replies[node]
                for node in active
                if tiers[node] == number and tier.is_sound(replies[node])
            ]
            steps = self.training.local_steps
            if tier.aggregate(server_round, sound, steps, shard_of, uniform):
                accepted += len(sound)
            else:
                unused += len(sound)
        return RoundRecord(
            server_round,
            _mean(losses),
            _mean(accuracies),
            _mean(penalties),
            len(cohort),
            accepted,
            rejected + len(active) - accepted - unused,
            unused,
        )

    def _first_contents(
        self, grid: Grid, server_round: int, tiers: Mapping[int, int]
    ) -> dict[int, RecordDict]:
        """Return the first message of each node of the cohort."""
        contents: dict[int, RecordDict] = {}
        for number in sorted(set(tiers.values())):
            members = [node for node, tier in tiers.items() if tier == number]
            contents |= self._tier_contents(grid, server_round, number, members)
        return contents

    def _tier_contents(
        self, grid: Grid, server_round: int, number: int, cohort: list[int]
    ) -> dict[int, RecordDict]:
        """Let the strategy configure the round; FedProx, for one, adds to the configuration."""
        tier = self.tiers[number]
        arrays = to_record(tier.parameters)
        config = ConfigRecord({protocol.SERVER_ROUND: server_round})
        view = _CohortView(grid, cohort)
        configured = tier.strategy.configure_train(
            server_round,
            arrays,
            config,
            view,  # type: ignore[arg-type]
        )
        statistics, moments = to_record(tier.statistics), to_record(tier.moments)
        contents: dict[int, RecordDict] = {}
        shared: dict[int, RecordDict] = {}
        for message in configured:
            # Strategies send one record to all nodes; it stays one, so that it travels once.
            content = shared.setdefault(id(message.content), message.content)
            content[protocol.STATISTICS] = statistics
            if tier.moments:
                content[protocol.MOMENTS] = moments
            content.config_records[protocol.CONFIG][protocol.STEPS_BEFORE] = tier.moment_steps
            content.config_records[protocol.CONFIG][protocol.STEP] = 0
            content.config_records[protocol.CONFIG][protocol.STEPS] = self.training.local_steps
            content.config_records[protocol.CONFIG][protocol.TIER] = number
            contents[message.metadata.dst_node_id] = content
        return contents

    def _forward(self, first: dict[int, RecordDict], node: int, step: int) -> RecordDict:
        if step == 0:
            return first[node]
        config = ConfigRecord(dict(first[node].config_records[protocol.CONFIG]))
        config[protocol.STEP] = step
        return RecordDict({protocol.CONFIG: config})

    def _backward(self, server_round: int, step: int, gradient: Tensor, tier: int) -> RecordDict:
        config = ConfigRecord(
            {
                protocol.SERVER_ROUND: server_round,
                protocol.STEP: step,
                protocol.STEPS: self.training.local_steps,
                protocol.LEARNING_RATE_SCALE: self.learning_rate_scale(server_round),
                protocol.TIER: tier,
            }
        )
        gradients = to_record({protocol.Z: gradient})
        return RecordDict({protocol.CONFIG: config, protocol.GRADIENTS: gradients})

    def _exchange(
        self, grid: Grid, server_round: int, message_type: str, contents: Mapping[int, RecordDict]
    ) -> dict[int, Message]:
        """Send one message per node; return the replies with content by node, in this order."""
        messages = [
            Message(
                content, dst_node_id=node, message_type=message_type, group_id=str(server_round)
            )
            for node, content in contents.items()
        ]
        replies = [reply for reply in grid.send_and_receive(messages) if reply.has_content()]
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        return {node: by_node[node] for node in contents if node in by_node}

    def _checked(self, reply: Message, tier: int) -> tuple[Tensor, Tensor] | None:
        """Return features and targets of a reply, or None if they are unusable."""
        record = record_in(reply.content, protocol.FEATURES, ArrayRecord)
        if record is None or protocol.TARGETS not in record:
            return None
        try:
            tensors = to_tensors(record)
            z, targets = decode(tensors), tensors[protocol.TARGETS]
        except (ValueError, TypeError):
            return None
        sound = (
            z.dim() > 0 < targets.dim()
            and len(z) == len(targets) > 0
            and targets.is_floating_point()
            and bool(torch.isfinite(z).all() and torch.isfinite(targets).all())
            and self.cloud.accepts(z, targets, tier)
        )
        return (z, targets) if sound else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
