"""Ridge and kernel ridge against the same linear algebra in torch."""

import numpy as np
import torch
from torch import Tensor

from attack_speed.bench import Bench, Case
from testbed.adversaries import kernel_ridge, ridge
from testbed.adversaries.base import FloatArray
from testbed.adversaries.released import ChannelNormaliser

ALPHA, WIDTH = 0.1, 2.0


def cases(bench: Bench) -> list[Case]:
    """Return training and reconstruction of both, at one penalty and one width."""
    normalise = ChannelNormaliser.fit(bench.auxiliary_features, per_element=True)
    inputs = _flat(normalise(bench.auxiliary_features))
    victims = _flat(normalise(bench.features))
    images = _flat(bench.auxiliary.images)
    return [
        *_ridge(inputs, victims, images),
        *_kernel_ridge(inputs, victims, images - images.mean(0)),
    ]


def _ridge(inputs: FloatArray, victims: FloatArray, images: FloatArray) -> list[Case]:
    own, read, wanted = (array.astype(np.float64) for array in (inputs, victims, images))
    z, x, v = (torch.from_numpy(array) for array in (own, wanted, read))
    solution = ridge.RidgeRegression(own, wanted)
    mean, weights = z.mean(0), _solved(z, x)
    return [
        Case(
            "ridge",
            "training",
            len(own),
            lambda: _own_map(ridge.RidgeRegression(own, wanted), own[:4]),
            lambda: (x.mean(0) + (z[:4] - z.mean(0)) @ _solved(z, x)).numpy(),
        ),
        Case(
            "ridge",
            "reconstruction",
            len(read),
            lambda: _own_map(solution, read),
            lambda: (x.mean(0) + (v - mean) @ weights).numpy(),
        ),
    ]


def _own_map(solution: ridge.RidgeRegression, features: np.ndarray) -> FloatArray:
    return solution.predict(solution.project(features), ALPHA)


def _solved(z: Tensor, x: Tensor) -> Tensor:
    """Return the ridge weights in dual form: Z' (Z Z' + alpha)^-1 X, by eigenvectors like ours."""
    centred, residual = z - z.mean(0), x - x.mean(0)
    gram = centred @ centred.T
    values, vectors = torch.linalg.eigh(gram)
    unit = values.clamp_min(0.0).sum() / len(z)
    inverted = vectors / (values.clamp_min(0.0) + ALPHA * unit)
    return centred.T @ (inverted @ (vectors.T @ residual))


def _kernel_ridge(inputs: FloatArray, victims: FloatArray, images: FloatArray) -> list[Case]:
    z, x, v = (torch.from_numpy(array) for array in (inputs, images, victims))
    kernel = kernel_ridge.Kernel(inputs)
    weights = kernel_ridge.fit(kernel_ridge.combined(kernel.parts(inputs), WIDTH), ALPHA, images)
    plain_weights = torch.from_numpy(weights)
    power = float(z.square().sum(1).mean())

    def ours() -> FloatArray:
        own = kernel_ridge.Kernel(inputs)
        return kernel_ridge.fit(kernel_ridge.combined(own.parts(inputs), WIDTH), ALPHA, images)

    def plain() -> FloatArray:
        among = _plain_kernel(z, z, power)
        among.diagonal().add_(ALPHA)
        factor = torch.linalg.cholesky(among)
        return torch.cholesky_solve(x, factor).numpy()

    return [
        Case("kernel_ridge", "training", len(inputs), ours, plain),
        Case(
            "kernel_ridge",
            "reconstruction",
            len(victims),
            lambda: kernel_ridge.combined(kernel.parts(victims), WIDTH) @ weights,
            lambda: (_plain_kernel(v, z, power) @ plain_weights).numpy(),
        ),
    ]


def _plain_kernel(first: Tensor, second: Tensor, power: float) -> Tensor:
    products = first @ second.T
    squares = first.square().sum(1)[:, None] + second.square().sum(1)[None, :]
    apart = (squares - 2.0 * products).clamp_min(0.0).sqrt() / power**0.5
    return products / power + torch.exp(-apart / WIDTH)


def _flat(array: FloatArray) -> FloatArray:
    return array.reshape(len(array), -1)
