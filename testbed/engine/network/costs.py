"""Costs of an arm's front-ends on every device of the fleet, in virtual time and energy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.grouping import equal_rows
from testbed.core.registries import STRATEGIES
from testbed.engine.hosts.host import Delivery
from testbed.engine.network.ledger import Charge, Charges
from testbed.engine.network.packet_loss import Retransmissions
from testbed.engine.setting.device_work import NOTHING_ELSE, DeviceWork, optimiser_work
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.fleet.catalogue import CatalogueDevice
from testbed.fleet.cost_model import (
    FP32_SLOWDOWN,
    TrainedNetwork,
    compute_energy_mj,
    device_factor,
    device_factors,
    inference_ms,
    network_factor,
    serving_feasibility,
    training_feasibility,
    training_parts_ms,
    work_ms,
)
from testbed.fleet.layer_stats import LayerStats
from testbed.fleet.links import radio_energy_mj, transfer_ms
from testbed.fleet.operation_work import NO_WORK, Work
from testbed.fleet.sampling import Fleet
from testbed.wire import protocol

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
TierNumbers = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class TierCosts:
    """Costs of one tier's front-end on every device of the fleet, inside the tier or not.

    Attributes
    ----------
    stats : sizes of the front-end for one image.
    seed : the scenario's.
    factors : of each device model of the fleet on this network (``network_factor``).
    trains, serves : whether it fits the memory of each device model of the fleet.
    work : of a device beside the front-end.
    update : of the optimiser, in a training step.
    """

    stats: LayerStats
    seed: int
    factors: NDArray[np.float64]
    trains: NDArray[np.bool_]
    serves: NDArray[np.bool_]
    work: DeviceWork = NOTHING_ELSE
    update: Work = NO_WORK

    @classmethod
    def of(
        cls,
        fleet: Fleet,
        stats: LayerStats,
        network: str,
        batch_size: int,
        seed: int,
        adversary: LayerStats | None = None,
        state_copies: int = 0,
        work: DeviceWork = NOTHING_ELSE,
        update: Work = NO_WORK,
    ) -> "TierCosts":
        """Compute the costs of the front-end ``network`` for every device.

        Parameters
        ----------
        adversary : sizes of the network that the defence trains beside it, for one image.
        state_copies : numbers in memory for each weight in training, beside weight and gradient.
        """
        models = fleet.models
        trained = TrainedNetwork(stats, batch_size, state_copies, adversary)
        trains = np.array([training_feasibility(m, trained).fits for m in models])
        serves = np.array([serving_feasibility(m, stats).fits for m in models])
        factors = np.array([network_factor(seed, m.name, network) for m in models])
        return cls(stats, seed, factors, trains, serves, work, update)

    def inference_ms(self, model: CatalogueDevice, images: int) -> float:
        """Return the milliseconds of a request on a device model: front-end, release, encoding."""
        return inference_ms(model, self.stats, images) + images * work_ms(model, self.work.release)

    def training_ms(self, model: CatalogueDevice, images: int) -> tuple[float, float]:
        """Return the milliseconds of both halves of a training step on a device model, in fp32."""
        forward_ms, backward_ms = training_parts_ms(model, self.stats, images)
        slowdown = FP32_SLOWDOWN[model.precision]
        step_ms = work_ms(model, self.work.step) * images / self.work.batch_size
        return (
            forward_ms + slowdown * images * work_ms(model, self.work.release),
            backward_ms + slowdown * (step_ms + work_ms(model, self.update)),
        )


class DeviceCosts:
    """Costs of an arm's front-ends for a fleet.

    Parameters
    ----------
    tiers : costs of every tier's front-end.
    tier_of : (N,) the tier of every device; None puts all into the first.
    """

    def __init__(
        self,
        fleet: Fleet,
        tiers: Sequence[TierCosts],
        tier_of: TierNumbers | None = None,
    ) -> None:
        self.fleet = fleet
        self.tiers = tuple(tiers)
        self.tier_of = np.zeros(len(fleet), dtype=np.uint8) if tier_of is None else tier_of
        self._device_factors: dict[int, float] = {}

    @property
    def devices(self) -> int:
        """Return the size of the fleet."""
        return len(self.fleet)

    def can_train(self, device: int, tier: int | None = None) -> bool:
        """Return whether training a tier's front-end fits a device; default: its own tier's."""
        costs = self.tiers[int(self.tier_of[device]) if tier is None else tier]
        return bool(costs.trains[self.fleet.model_index[device]])

    def can_serve(self, device: int) -> bool:
        """Return whether its own front-end fits a device's memory."""
        costs = self.tiers[int(self.tier_of[device])]
        return bool(costs.serves[self.fleet.model_index[device]])

    @property
    def training_feasible(self) -> NDArray[np.bool_]:
        """Whether training its own front-end fits each device's memory (N,): a copy."""
        trains: NDArray[np.bool_] = np.stack([tier.trains for tier in self.tiers])
        return trains[self.tier_of, self.fleet.model_index]

    @property
    def serving_feasible(self) -> NDArray[np.bool_]:
        """Whether its own front-end fits each device's memory (N,): a copy."""
        serves: NDArray[np.bool_] = np.stack([tier.serves for tier in self.tiers])
        return serves[self.tier_of, self.fleet.model_index]

    def compute_ms(
        self, device: int, message_type: str, images: int, tier: int | None = None
    ) -> float:
        """Return the virtual milliseconds of a device's computation for one message.

        Parameters
        ----------
        tier : tier of the front-end that it runs; None: its own.
        """
        if images == 0:
            return 0.0
        model = self.fleet.device(device)
        costs = self.tiers[int(self.tier_of[device]) if tier is None else tier]
        if message_type == protocol.INFER:
            plain = costs.inference_ms(model, images)
        elif message_type == protocol.FORWARD:
            plain = costs.training_ms(model, images)[0]
        elif message_type == protocol.BACKWARD:
            plain = costs.training_ms(model, images)[1]
        else:
            return 0.0
        factor = self._device_factors.get(device)
        if factor is None:
            factor = self._device_factors[device] = device_factor(costs.seed, device)
        return plain * factor * float(costs.factors[self.fleet.model_index[device]])

    def inference_ms_of_all(self) -> NDArray[np.float64]:
        """Return the milliseconds of one inference on every device (N,)."""
        by_model = np.array(
            [
                [tier.inference_ms(model, 1) for model in self.fleet.models] * tier.factors
                for tier in self.tiers
            ]
        )
        of_device: NDArray[np.float64] = by_model[self.tier_of, self.fleet.model_index]
        return of_device * device_factors(self.tiers[0].seed, self.devices)

    def charge(
        self,
        device: int,
        message_type: str,
        images: int,
        delivery: Delivery,
        retransmissions: Retransmissions,
        tier: int | None = None,
    ) -> Charge:
        """Return the charge of one message and its reply.

        Energy counts above idle: (active - idle power) x compute time, plus the radio's energy.
        A lost transmission is charged like one that arrives.
        """
        uplink = float(self.fleet.uplink_mbit_s[device])
        downlink = float(self.fleet.downlink_mbit_s[device])
        rtt_ms = float(self.fleet.rtt_ms[device])
        compute_ms = self.compute_ms(device, message_type, images, tier)
        downlink_ms, received = retransmissions.sent(
            transfer_ms(delivery.downlink_bytes, downlink, rtt_ms)
        )
        uplink_ms, sent = retransmissions.sent(transfer_ms(delivery.uplink_bytes, uplink, rtt_ms))
        uplink_bytes = sent * delivery.uplink_bytes
        downlink_bytes = received * delivery.downlink_bytes
        return Charge(
            uplink_bytes,
            downlink_bytes,
            compute_ms,
            uplink_ms,
            downlink_ms,
            self.work_mj(device, compute_ms, uplink_bytes, downlink_bytes),
        )

    def work_mj(
        self, device: int, compute_ms: float, uplink_bytes: float, downlink_bytes: float
    ) -> float | None:
        """Return a device's energy of computing, sending and receiving; None: unpublished.

        It is linear in all amounts, so that it holds for one message and for sums.
        """
        fleet = self.fleet
        computing = compute_energy_mj(fleet.device(device), compute_ms)
        radio = radio_energy_mj(
            fleet.link(device),
            uplink_bytes,
            downlink_bytes,
            float(fleet.uplink_mbit_s[device]),
            float(fleet.downlink_mbit_s[device]),
        )
        return None if computing is None or radio is None else computing + radio

    def charge_all(
        self, devices: Ids, delivery: Delivery, retransmissions: Iterable[Retransmissions] | None
    ) -> Charges:
        """Return the charges of a message without computation, and of its reply, to many devices.

        They are those of ``charge`` for each device, to the bit.

        Parameters
        ----------
        delivery : its sizes are the same for all.
        retransmissions : of each device; None: nothing is lost.
        """
        fleet = self.fleet
        downlink, uplink = fleet.downlink_mbit_s[devices], fleet.uplink_mbit_s[devices]
        rtt_ms = fleet.rtt_ms[devices]
        downlink_ms = transfer_ms(delivery.downlink_bytes, downlink, rtt_ms)
        uplink_ms = transfer_ms(delivery.uplink_bytes, uplink, rtt_ms)
        received = sent = np.ones(len(devices), dtype=np.int64)
        if retransmissions is not None:
            once_ms = zip(retransmissions, downlink_ms.tolist(), uplink_ms.tolist(), strict=True)
            drawn = [(*each.sent(down), *each.sent(up)) for each, down, up in once_ms]
            downlink_ms, uplink_ms = (np.array([row[place] for row in drawn]) for place in (0, 2))
            received, sent = (np.array([row[place] for row in drawn]) for place in (1, 3))
        up, down = sent * delivery.uplink_bytes, received * delivery.downlink_bytes
        energy_mj = self.work_mj_of(devices, np.zeros(len(devices)), up, down)
        return Charges(up, down, uplink_ms, downlink_ms, energy_mj)

    def work_mj_of(
        self, devices: Ids, compute_ms: Floats, uplink_bytes: Ids, downlink_bytes: Ids
    ) -> Floats:
        """Return ``work_mj`` of many devices, NaN where it is unpublished; the same bits."""
        fleet = self.fleet
        work_mj = np.full(len(devices), np.nan)
        models, links = fleet.model_index[devices], fleet.link_index[devices]
        for members in equal_rows(models, links, uplink_bytes, downlink_bytes):
            first, of_group = members[0], devices[members]
            computing = compute_energy_mj(fleet.models[models[first]], compute_ms[members])
            radio = radio_energy_mj(
                fleet.profiles[links[first]],
                int(uplink_bytes[first]),
                int(downlink_bytes[first]),
                fleet.uplink_mbit_s[of_group],
                fleet.downlink_mbit_s[of_group],
            )
            if computing is not None and radio is not None:
                work_mj[members] = computing + radio
        return work_mj


def device_costs(inputs: RunInputs, models: ArmModels) -> DeviceCosts:
    """Return the costs of an arm's front-ends on every device of the fleet."""
    scenario = inputs.scenario
    training = scenario.training
    strategy = STRATEGIES.create(training.strategy.name, training.strategy.options)
    # FedProx keeps the weights that the round started from.
    anchors = 1 if getattr(strategy, "proximal_mu", 0.0) else 0
    tiers = [
        TierCosts.of(
            inputs.fleet,
            tier.edge_stats,
            tier.device_spec.front_end.name,
            training.batch_size,
            scenario.seed,
            tier.adversary_stats,
            training.edge_optimiser.state_copies + anchors,
            tier.work,
            optimiser_work(training.edge_optimiser, tier.edge_stats, tier.adversary_stats, anchors),
        )
        for tier in models.tiers
    ]
    return DeviceCosts(inputs.fleet, tiers, models.tier_of)
