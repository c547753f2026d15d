"""The latency form and its constants per family; see ``testbed.fleet.cost_model``."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Amount = TypeVar("Amount", float, NDArray[np.float64])

Counts = TypeVar("Counts", covariant=True)

LARGEST_OVERHEAD = 1.0 / 3.0
"""t0 is at most this share of the calibration latency, as fast devices have less overhead."""


@dataclass(frozen=True)
class LatencyFamily:
    """Constants of one latency family.

    Attributes
    ----------
    fixed_ms : t0, the overhead of one call.
    conv3x3_factor : k3, the cost of a MAC in a dense 3x3 stride-1 convolution against any other.
    macs_per_activation : 4 alpha, what moving one activation element costs, in MACs.
    macs_per_param : what reading one parameter costs, in MACs.
    """

    fixed_ms: float
    conv3x3_factor: float
    macs_per_activation: float
    macs_per_param: float = 0.0

    def overhead_ms(self, calibration_ms: float) -> float:
        """Return t0 on a device that takes ``calibration_ms`` for its calibration network."""
        return min(self.fixed_ms, LARGEST_OVERHEAD * calibration_ms)


FAMILIES: dict[str, LatencyFamily] = {
    "cpu": LatencyFamily(0.3, 0.40, 10.0, 4.0),
    "cpu-gemm": LatencyFamily(0.3, 1.0, 10.0, 4.0),
    "cpu-int8": LatencyFamily(0.14, 0.88, 55.0, 0.33),
    "gpu": LatencyFamily(4.3, 0.58, 21.0, 3.5),
    "gpu-int8": LatencyFamily(0.01, 0.82, 24.0, 0.01),
    "mcu": LatencyFamily(0.0, 1.0, 16.7, 0.78),
    "npu": LatencyFamily(0.58, 0.05, 810.0, 1200.0),
}
"""``cpu``: runtimes with Winograd convolutions (ncnn, MNN, TNN, Paddle-Lite); ``cpu-gemm``: those
that multiply unfolded images (TensorFlow Lite, XNNPACK); ``cpu-int8``: ncnn's quantised kernels;
``gpu-int8``: quantised networks on GPU backends, which run large parts on the CPU. Fitted by
``python -m testbed.fleet.calibration.fit_latency``, with two exceptions: ``mcu`` comes from all
MLPerf Tiny results, and ``cpu`` differs from the fit (0.72, 0.48, 12, 4). It minimises the median
error on networks of 3x3 convolutions, as front-ends are (ResNet-18, SqueezeNet, VGG16: 11 % instead
of 15 %), without loss over all networks (15.5 % instead of 15.7 %)."""


@dataclass(frozen=True)
class NetworkCosts(Generic[Counts]):
    """Costs of one forward pass of one input: of one network, or of many in columns.

    Attributes
    ----------
    macs : multiply-accumulates of all convolutions and matrix products; biases are not counted.
    macs_conv3x3s1 : the part of ``macs`` in dense 3x3 stride-1 convolutions, which runtimes
        compute with Winograd's algorithm at about a third of the nominal cost.
    params : parameters, frozen ones and fixed weights of counted operations included.
    activation_elements : elements read plus elements written by all layers (not folded ones).
    """

    macs: Counts
    macs_conv3x3s1: Counts
    params: Counts
    activation_elements: Counts


def form_units(family: LatencyFamily, costs: NetworkCosts[Amount]) -> Amount:
    """Return the work of one forward pass in discounted MACs."""
    return (
        (costs.macs - costs.macs_conv3x3s1)
        + family.conv3x3_factor * costs.macs_conv3x3s1
        + family.macs_per_activation * costs.activation_elements
        + family.macs_per_param * costs.params
    )
