"""Conditional entropy maximisation (Xia et al., CVPR 2025, arXiv 2503.00383) on any other defence.

    L = L_base + weight * L_C / d,   L_C = sum_i pi_i (-log pi_i + 1/2 log |S_i + s^2 I| / |s^2 I|)

for a mixture of Gaussians with weights pi_i and covariances S_i fitted to the features, of d
elements, that get noise N(0, s^2 I). L_C bounds I(x; z + noise) from above, and H(x | z + noise) =
H(x) - I(x; z + noise) bounds any inversion's error from below, relative to the unknown H(x): a
training signal, no guarantee. Only the diagonal of S_i is used. Its product is at least the
determinant of S_i, so the bound still holds.

The paper fits many components per class to the whole training set; a device sees a batch. Here the
components are the classes with at least two images in the batch, and one component of all other
images; they need no state and no traffic. The noise is added before the base's release, which
cannot add information.
"""

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Wrapping, WrappingOptions
from clients.defences.noise import signal_to_noise_db, standard_normal
from testbed.core.registries import DEFENCES
from testbed.core.registry import Positive
from testbed.scenario.components import DefenceChoice, component


class CemOptions(WrappingOptions):
    """Weight of the entropy term, the noise of its bound, and the defence underneath."""

    defence_name = "cem"
    weight: Positive = Field(default=0.5, description="weight of the bound in nats per feature")
    scale: Positive = Field(
        default=0.1, description="standard deviation s of the noise added to the features"
    )
    base: DefenceChoice = component(DEFENCES, "none", "the defence underneath")


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
    # A class of one image has no variance: all such images form one more component.
    component_of = torch.where(alone, -1, component_of)
    bound = flat.new_zeros(())
    for index in torch.unique(component_of).tolist():
        members = flat[component_of == index]
        if len(members) == 1:  # a single image left over: take the variance of the whole batch
            members = flat
            share = 1.0 / len(flat)
        else:
            share = len(members) / len(flat)
        variance = members.var(dim=0, unbiased=True)
        entropy = 0.5 * torch.log1p(variance / noise_variance).sum()
        bound = bound + share * (entropy - torch.log(flat.new_tensor(share)))
    return bound


@DEFENCES.register(
    "cem",
    "maximises the conditional entropy of images given features; on top of any other defence",
    CemOptions,
    source="Xia et al. 2025, arXiv 2503.00383",
)
class Cem(Wrapping):
    """Adds noise before its base's release, and the bound to its base's penalty."""

    options: CemOptions

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the base's penalty plus weight * L_C per feature."""
        noise_variance = self.options.scale**2
        bound = information_bound(batch.z, batch.labels, noise_variance) / batch.z[0].numel()
        base = self.base.penalty(batch)
        return self.options.weight * bound + (0.0 if base is None else base)

    def signal(self, z: Tensor) -> Tensor:
        """Return the features themselves: this noise comes first, whatever the base adds."""
        return z

    def equivalent_noise_std(self) -> float:
        """Return the standard deviation of the noise that this defence adds."""
        return self.options.scale

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release of the noisy features."""
        noisy = z + self.options.scale * standard_normal(z, rng)
        return self.base.release(noisy, rng)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the base's statistics and the ratio of the features to this defence's noise."""
        snr_db = signal_to_noise_db(z, self.options.scale**2)
        return {**self.base.release_statistics(z, released), "counted_snr_db": snr_db}
