"""The two workloads in plain torch, shared by all contenders.

A: a convolutional network of 25,578 weights (conv 16, pool, conv 32, pool, linear 10), trained by
each device on its own 20 images of 32x32x3 for one epoch of SGD with batches of 10, then averaged.
B: its first block and a 1x1 convolution to 4 channels on the same images, in the device; the server
runs the rest on the features.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IMAGES_PER_DEVICE = 20
BATCH_SIZE = 10
LEARNING_RATE = 0.05
CLASSES = 10
POOL_IMAGES = 2000
"""Number of images in the shared array; devices hold slices of it."""

SHAPES = {
    "conv1.weight": (16, 3, 3, 3),
    "conv1.bias": (16,),
    "conv2.weight": (32, 16, 3, 3),
    "conv2.bias": (32,),
    "linear.weight": (CLASSES, 32 * 8 * 8),
    "linear.bias": (CLASSES,),
}
EDGE_SHAPES = {
    "conv1.weight": (16, 3, 3, 3),
    "conv1.bias": (16,),
    "squeeze.weight": (4, 16, 1, 1),
    "squeeze.bias": (4,),
}
CLOUD_SHAPES = {
    "conv2.weight": (32, 4, 3, 3),
    "conv2.bias": (32,),
    "linear.weight": (CLASSES, 32 * 8 * 8),
    "linear.bias": (CLASSES,),
}
Weights = dict[str, Tensor]


def initial_weights(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Return seeded weights, uniform within 1 / sqrt(fan-in)."""
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shapes[name.replace("bias", "weight")][1:]))
        weights[name] = (torch.rand(shape, generator=rng) * 2 - 1) / fan_in**0.5
    return weights


@dataclass(frozen=True)
class Pool:
    """Random images with labels; equal in every process.

    Attributes
    ----------
    images, labels : uint8 (N, 3, 32, 32) and int64 (N,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def make(cls) -> "Pool":
        """Draw the pool."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (POOL_IMAGES, 3, 32, 32), dtype=np.uint8)
        return cls(images, rng.integers(0, CLASSES, POOL_IMAGES))

    def training(self, device: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return a device's images and labels."""
        rows = rows_of(device)
        return self.images[rows], self.labels[rows]


def rows_of(device: int) -> slice:
    """Return the rows of the pool that a device holds."""
    start = device * IMAGES_PER_DEVICE % POOL_IMAGES
    return slice(start, start + IMAGES_PER_DEVICE)


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Return images as network input, in the faster memory layout."""
    x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    return x.float().div_(255.0)


def logits(weights: Weights, x: Tensor) -> Tensor:
    """Run the network of workload A."""
    x = F.max_pool2d(F.relu(F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], 1, 1)), 2)
    return finish(weights, x)


def features(weights: Weights, x: Tensor) -> Tensor:
    """Run the device's part of workload B: (n, 3, 32, 32) -> (n, 4, 16, 16)."""
    x = F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], 1, 1)
    x = F.max_pool2d(F.relu(x), 2)
    return F.conv2d(x, weights["squeeze.weight"], weights["squeeze.bias"])


def finish(weights: Weights, z: Tensor) -> Tensor:
    """Run the second half of either network."""
    x = F.max_pool2d(F.relu(F.conv2d(z, weights["conv2.weight"], weights["conv2.bias"], 1, 1)), 2)
    return F.linear(x.flatten(1), weights["linear.weight"], weights["linear.bias"])


def local_sgd(weights: Weights, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Weights:
    """Train a copy of the weights for one epoch and return it."""
    own = {name: value.clone().requires_grad_() for name, value in weights.items()}
    leaves = list(own.values())
    x, y = to_input(images), torch.from_numpy(labels)
    for start in range(0, len(x), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        loss = F.cross_entropy(logits(own, x[batch]), y[batch])
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            torch._foreach_add_(leaves, gradients, alpha=-LEARNING_RATE)
    return {name: value.detach() for name, value in own.items()}
