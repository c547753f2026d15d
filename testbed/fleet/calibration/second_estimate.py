"""A second latency estimate: it runs the front-end instead of counting its operations.

    t_device(front-end) = t_host(front-end) * t_device(reference) / t_host(reference)

The host's times are CPU seconds of one thread; the device's time on the reference network is the
published calibration. The estimate contains the real cost of every layer, but on another processor
than the device's. Trust neither estimate where this one and the cost model differ by much.
"""

import copy
import statistics
import time

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from testbed.core.threads import torch_threads
from testbed.fleet.calibration.reference_networks import REFERENCE_NETWORKS
from testbed.fleet.catalogue import CatalogueDevice

WARM_UP = 2
SHORTEST_S = 0.02
"""Minimum CPU time of a repetition, well above the clock's resolution."""


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a copy for inference with batch norms folded into the convolutions before them."""
    folded = copy.deepcopy(module).eval()
    for parent in folded.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for index in range(len(parent) - 1):
            first, second = parent[index], parent[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                parent[index] = fuse_conv_bn_eval(first, second)
                parent[index + 1] = nn.Identity()
    return folded


def host_cpu_ms(module: nn.Module, input_shape: tuple[int, int, int], repeats: int = 7) -> float:
    """Return the median CPU milliseconds of one inference in one thread of this host."""
    network = fold_batch_norm(module)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    image = torch.zeros((1, *input_shape)).contiguous(memory_format=torch.channels_last)
    with torch_threads(1), torch.inference_mode():
        for _ in range(WARM_UP):
            network(image)
        return statistics.median(_one_repeat_s(network, image) for _ in range(repeats)) * 1e3


def _one_repeat_s(network: nn.Module, image: torch.Tensor) -> float:
    started, runs = time.thread_time(), 0
    while (passed := time.thread_time() - started) < SHORTEST_S or runs == 0:
        network(image)
        runs += 1
    return passed / runs


class HostRates:
    """CPU times of this host on the reference networks, measured on demand."""

    def __init__(self, repeats: int = 7) -> None:
        self._repeats = repeats
        self._reference_ms: dict[str, float] = {}

    def second_estimate_ms(self, device: CatalogueDevice, front_end_host_ms: float) -> float | None:
        """Return the estimate, or None where the device's reference network is not implemented.

        Parameters
        ----------
        device : the device.
        front_end_host_ms : CPU milliseconds of the front-end on this host (``host_cpu_ms``).
        """
        network = device.calibration_network
        if network not in REFERENCE_NETWORKS:
            return None
        if network not in self._reference_ms:
            build, shape = REFERENCE_NETWORKS[network]
            self._reference_ms[network] = host_cpu_ms(build(), shape, self._repeats)
        return front_end_host_ms * device.calibration_latency_ms / self._reference_ms[network]
