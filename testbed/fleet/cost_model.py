"""Time, energy and memory of a front-end on a catalogue device.

Latency is the discounted-MACs and activation-traffic form::

    t = t0 + s_device * (M_other + k3 * M_3x3s1 + 4 * alpha * A + w * params)

with M in multiply-accumulates, A the activation elements read and written, and constants per
latency family. Only ``s_device`` depends on the device. It is derived from one published
measurement of a known network on it. On devices that the constants were not fitted on, expect a
median error of about 16 % on application CPUs, 20 % on GPUs, 14 % on microcontrollers and 24 % on
NPUs (a tenth of the predictions is off by 40 % or more). Trust at most two significant figures.
The largest errors occur outside a microcontroller's SRAM (2 to 3.5 times slower), for networks
whose latency is mostly call overhead, and across runtimes: the choice of framework changes
latencies by a factor of 1.25.

``python -m testbed.validate_costs FILE.csv`` measures these errors on published latencies; for
widely measured networks it adds learned corrections (``testbed.fleet.calibration.residuals``),
which do not exist for the front-ends of this project.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core import seeds
from testbed.fleet.calibration.latency_form import FAMILIES, NetworkCosts, form_units
from testbed.fleet.catalogue import CatalogueDevice
from testbed.fleet.layer_stats import LayerStats
from testbed.fleet.links import Number
from testbed.scenario.training import ADAM_STATE_COPIES

BYTES_PER_ELEMENT = {"fp32": 4, "fp16": 2, "int8": 1}
JITTER_SIGMA = 0.2
"""Sigma of the lognormal factor on the latency of one network on one device."""
DEVICE_SIGMA = NETWORK_SIGMA = JITTER_SIGMA / 2**0.5
"""The variance, half from the device (``device_factor``), half from the device model and network
(``network_factor``). Only the sum is published; the equal split is an assumption."""

BACKWARD_COST = 2.0
"""A backward pass costs two forward passes: for every product of the forward pass, one for the
gradient of the weights and one for that of the inputs (Kaplan et al. 2020, section 2.1)."""

FP32_SLOWDOWN = {"fp32": 1.0, "fp16": 1.9, "int8": 2.3}
"""Slowdown of training (fp32) against inference at the calibrated precision. fp16: measured
ratio on ARMv8.2 phones (median 2.0 over 8 pairs, 1.9 in the wider set); int8: XNNPACK on Raspberry
Pi 2 to 4 (median 2.3), as on a CY8CPROTO-062 microcontroller (2.33)."""

USABLE_RAM_SHARE = {"mcu": 0.75, "mcu-npu": 0.75}
USABLE_RAM_SHARE_WITH_OS = 0.5
"""Share of the memory for the network. A microcontroller's firmware takes a quarter (stacks,
drivers, radio buffers); an operating system with other applications takes half. Both are
assumptions, not measurements; they matter only for boards near the limit."""


@dataclass(frozen=True)
class Feasibility:
    """Whether a network fits a device's memory; ``budget_bytes`` None: memory unpublished."""

    fits: bool
    needed_bytes: int
    budget_bytes: int | None


def seconds_per_unit(device: CatalogueDevice) -> float:
    """Return s_device: seconds per discounted MAC, from the device's calibration measurement."""
    family, measured_ms = FAMILIES[device.latency_family], device.calibration_latency_ms
    seconds = (measured_ms - family.overhead_ms(measured_ms)) / 1000.0
    return seconds / form_units(family, device.calibration_costs)


def inference_ms(device: CatalogueDevice, stats: LayerStats, images: int = 1) -> float:
    """Return the virtual milliseconds of one inference call on ``images`` images.

    The call's overhead t0 is paid once; the rest is proportional to the images.
    """
    family = FAMILIES[device.latency_family]
    overhead_ms = family.overhead_ms(device.calibration_latency_ms)
    return overhead_ms + images * form_units(family, stats) * seconds_per_unit(device) * 1000.0


def work_ms(device: CatalogueDevice, work: NetworkCosts[int]) -> float:
    """Return the virtual milliseconds of work within a call, at the calibrated precision."""
    units = form_units(FAMILIES[device.latency_family], work)
    return units * seconds_per_unit(device) * 1000.0


def training_step_ms(device: CatalogueDevice, stats: LayerStats, images: int) -> float:
    """Return the virtual milliseconds of a forward and a backward pass on a batch, in fp32."""
    return sum(training_parts_ms(device, stats, images))


def training_parts_ms(
    device: CatalogueDevice, stats: LayerStats, images: int
) -> tuple[float, float]:
    """Return the forward and the backward milliseconds of one training step on a batch, in fp32."""
    forward_ms = inference_ms(device, stats, images) * FP32_SLOWDOWN[device.precision]
    return forward_ms, BACKWARD_COST * forward_ms


def cloud_step_ms(
    device: CatalogueDevice, paths: Sequence[LayerStats], images: Mapping[int, int]
) -> float:
    """Return the virtual milliseconds of one training step of the cloud model, in fp32.

    The features of all tiers are one batch, so that the overhead of a call is paid once. A tier's
    images cost its path through the model: its entry layers and the shared trunk.

    Parameters
    ----------
    paths : of every tier, for one image.
    images : in the batch, by tier.
    """
    alone_ms = [training_step_ms(device, paths[tier], count) for tier, count in images.items()]
    if not alone_ms:
        return 0.0
    empty_ms = training_step_ms(device, paths[0], 0)
    return empty_ms + sum(step_ms - empty_ms for step_ms in alone_ms)


def device_factor(seed: int, device: int) -> float:
    """Return the lognormal factor (median 1) of one device of the fleet: its clock, its heat.

    It is the same for every network, and therefore in every arm.
    """
    rng = seeds.generator(seed, "fleet-device-factor", device)
    return float(rng.lognormal(0.0, DEVICE_SIGMA))


def device_factors(seed: int, devices: int) -> NDArray[np.float64]:
    """Return ``device_factor`` of the devices from 0 on (N,)."""
    streams = seeds.generators(seed, "fleet-device-factor", np.arange(devices))
    factors = (rng.lognormal(0.0, DEVICE_SIGMA) for rng in streams)
    return np.fromiter(factors, dtype=np.float64, count=devices)


def network_factor(seed: int, model: str, network: str) -> float:
    """Return the lognormal factor (median 1) of one network on one device model.

    It models what the form omits about them: kernels, compilers. All devices of a model share it.
    """
    rng = seeds.generator(seed, "fleet-network-factor", seeds.key(model), seeds.key(network))
    return float(rng.lognormal(0.0, NETWORK_SIGMA))


def compute_energy_mj(device: CatalogueDevice, compute_ms: Number) -> Number | None:
    """Return the millijoules of computing for ``compute_ms``, or None: power unpublished.

    (P_active - P_idle) t where both are published. Where only the active power is, P_active t, an
    upper bound of the energy that the computation adds.
    """
    if device.power_active_w is None:
        return None
    return max(0.0, device.power_active_w - (device.power_idle_w or 0.0)) * compute_ms


def inference_bytes(device: CatalogueDevice, stats: LayerStats) -> int:
    """Return parameters plus peak activations, at the device's precision, in bytes."""
    return (stats.params + stats.peak_activation_elements) * BYTES_PER_ELEMENT[device.precision]


@dataclass(frozen=True)
class TrainedNetwork:
    """What a device trains, with the memory of its optimisers; training is fp32 everywhere.

    Attributes
    ----------
    stats : the front-end, for one image.
    state_copies : numbers that the optimiser keeps for each weight, beside weight and gradient.
    adversary : the network that the defence trains beside it, for one image.
    adversary_state_copies : the same for its optimiser.
    """

    stats: LayerStats
    batch_size: int
    state_copies: int
    adversary: LayerStats | None = None
    adversary_state_copies: int = ADAM_STATE_COPIES

    @property
    def bytes(self) -> int:
        """Return weights, gradients, optimiser state and the activations kept for a batch."""
        whole = self.stats.then(self.adversary) if self.adversary else self.stats
        kept = max(whole.saved_activation_elements, whole.peak_activation_elements)
        numbers = (2 + self.state_copies) * self.stats.params + kept * self.batch_size
        if self.adversary:
            numbers += (2 + self.adversary_state_copies) * self.adversary.params
        return BYTES_PER_ELEMENT["fp32"] * numbers


def usable_ram_bytes(device: CatalogueDevice) -> int | None:
    """Return the memory that a network may use, or None where the memory is unpublished."""
    if device.ram_bytes is None:
        return None
    share = USABLE_RAM_SHARE.get(device.device_class, USABLE_RAM_SHARE_WITH_OS)
    return int(device.ram_bytes * share)


def _feasibility(device: CatalogueDevice, needed_bytes: int) -> Feasibility:
    budget_bytes = usable_ram_bytes(device)
    return Feasibility(
        budget_bytes is None or needed_bytes <= budget_bytes, needed_bytes, budget_bytes
    )


def serving_feasibility(device: CatalogueDevice, stats: LayerStats) -> Feasibility:
    """Return whether the network fits for inference; unpublished memory counts as sufficient."""
    return _feasibility(device, inference_bytes(device, stats))


def training_feasibility(device: CatalogueDevice, network: TrainedNetwork) -> Feasibility:
    """Return whether the network fits for training; unpublished memory counts as sufficient.

    A microcontroller trains only if its memory is published and sufficient. NPUs and Edge TPUs
    execute compiled inference graphs and never train (the CPU row of the same board can).
    """
    feasibility = _feasibility(device, network.bytes)
    unknown_mcu = feasibility.budget_bytes is None and device.device_class in ("mcu", "mcu-npu")
    if unknown_mcu or device.latency_family == "npu":
        return Feasibility(False, feasibility.needed_bytes, feasibility.budget_bytes)
    return feasibility
