"""The latency form and its constants per family; see ``testbed.fleet.cost_model``."""

from dataclasses import dataclass


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
        """Return t0, at most a third of the calibration latency: fast devices have less."""
        return min(self.fixed_ms, calibration_ms / 3.0)


FAMILIES: dict[str, LatencyFamily] = {
    "cpu": LatencyFamily(0.3, 0.32, 8.0),
    "cpu-gemm": LatencyFamily(0.3, 1.0, 8.0),
    "gpu": LatencyFamily(1.5, 0.3, 12.0),
    "mcu": LatencyFamily(0.0, 1.0, 16.7, 0.78),
    "npu": LatencyFamily(0.1, 0.3, 12.0),
}
"""``cpu``: runtimes with Winograd convolutions (ncnn, MNN, TNN, Paddle-Lite); ``cpu-gemm``: those
that multiply unfolded images (TensorFlow Lite with XNNPACK, TensorFlow)."""


def form_units(
    family: LatencyFamily,
    *,
    macs: float,
    macs_conv3x3s1: float,
    params: float,
    activation_elements: float,
) -> float:
    """Return the work of one forward pass in discounted MACs."""
    return (
        macs
        - macs_conv3x3s1
        + family.conv3x3_factor * macs_conv3x3s1
        + family.macs_per_activation * activation_elements
        + family.macs_per_param * params
    )
