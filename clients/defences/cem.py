"""Conditional entropy maximisation (Xia et al., CVPR 2025, arXiv 2503.00383) on any other defence.

    L = L_base + weight * L_C / d,   L_C = sum_i pi_i (-log pi_i + 1/2 log |S_i + s^2 I| / |s^2 I|)

for a mixture of Gaussians with weights pi_i and covariances S_i fitted to the features, of d
elements, that get noise N(0, s^2 I). L_C bounds I(x; z + noise) from above, and H(x | z + noise) =
H(x) - I(x; z + noise) bounds any inversion's error from below, relative to the unknown H(x): a
training signal, no guarantee. Only the
diagonal of S_i is taken, whose product is at least its determinant: the bound still holds.

The paper fits many components per class to the whole training set; a device sees a batch. Here the
components are the classes with at least two images in the batch, and one of all other images; they
need no state and no traffic. The noise comes before the base's release, which cannot add
information to it.
"""

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from clients.defences.base import Batch, Defence
from clients.defences.bounded_noise import signal_to_noise_db
from clients.defences.wrapping import Wrapping, refuse_twice
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options
from testbed.scenario.components import DefenceChoice, component

Positive = Annotated[float, Field(gt=0.0)]


class CemOptions(Options):
    """Weight of the entropy term, the noise it counts on, and the defence underneath."""

    weight: Positive = Field(default=0.5, description="of the bound in nats per feature")
    scale: Positive = Field(
        default=0.1, description="standard deviation s of the noise added to the features"
    )
    base: DefenceChoice = component(DEFENCES, "none", "the defence underneath")

    @model_validator(mode="after")
    def _once(self) -> Self:
        refuse_twice("cem", self.base)
        return self


def information_bound(z: Tensor, labels: Tensor, noise_variance: float) -> Tensor:
    """Return L_C, an upper bound of I(x; z + noise) under the fitted mixture, in nats.

    Parameters
    ----------
    z : features (N, ...) of at least two images.
    labels : classes (N,), which assign images to components.
    """
    flat = z.flatten(1)
    _, component_of, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    alone = counts[component_of] == 1
    # Classes of one image have no variance of their own; together they are one more component.
    component_of = torch.where(alone, -1, component_of)
    bound = flat.new_zeros(())
    for index in torch.unique(component_of).tolist():
        members = flat[component_of == index]
        if len(members) == 1:  # the last image alone: it tells at most as much as all of them vary
            members = flat
            share = 1.0 / len(flat)
        else:
            share = len(members) / len(flat)
        variance = members.var(dim=0, unbiased=True)
        entropy = 0.5 * torch.log1p(variance / noise_variance).sum()
        bound = bound + share * (entropy - torch.log(flat.new_tensor(share)))
    return bound


class Cem(Wrapping):
    """Adds noise before its base's release, and the bound to its base's penalty."""

    def __init__(self, options: CemOptions) -> None:
        super().__init__(options.base)
        self.options = options

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the base's penalty plus weight * L_C per feature."""
        noise_variance = self.options.scale**2
        bound = information_bound(batch.z, batch.labels, noise_variance) / batch.z[0].numel()
        base = self.base.penalty(batch)
        return self.options.weight * bound + (0.0 if base is None else base)

    def signal(self, z: Tensor) -> Tensor:
        """Return the features themselves: its own noise comes first, whatever the base adds."""
        return z

    def equivalent_noise_std(self) -> float:
        """Return the standard deviation of its own noise."""
        return self.options.scale

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release of the noisy features."""
        noise = torch.randn(z.shape, generator=rng, device=rng.device)
        noisy = z + self.options.scale * noise.to(device=z.device, dtype=z.dtype)
        return self.base.release(noisy, rng)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the base's statistics and the ratio of the features to the noise counted on."""
        snr_db = signal_to_noise_db(z, self.options.scale**2)
        return {**self.base.release_statistics(z, released), "counted_snr_db": snr_db}


@DEFENCES.register(
    "cem",
    "maximises the conditional entropy of images given features; on top of any other defence",
    CemOptions,
    source="Xia et al. 2025, arXiv 2503.00383",
)
def cem(options: CemOptions) -> Defence:
    """Build conditional entropy maximisation."""
    return Cem(options)
