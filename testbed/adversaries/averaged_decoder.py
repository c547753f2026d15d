"""Mean of several decoders, each the moving average of its weights, trained on varied images too.

Every second pass is over new variations of the auxiliary images. All members learn from the same
batches, from other initial weights. A member decodes with an exponential moving average of its
weights, and the mean of the members' images is validated. With the body of the residual decoder
this is a longer training of a better estimator, not a larger network. The closed form
(``kernel_ridge``) errs otherwise: a mean of both, weighted on the validation images, attacks.

References
----------
Polyak, Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim.
30(4), 1992 (averaged weights). Lakshminarayanan, Pritzel, Blundell, Simple and scalable predictive
uncertainty estimation using deep ensembles, NeurIPS 2017 (means of networks).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from testbed.adversaries.base import Attack, Evidence, FloatArray, Reconstruction, Report
from testbed.adversaries.decoder_network import (
    CAPACITIES,
    AveragedNetworks,
    Capacity,
    DecoderNetwork,
    update,
)
from testbed.adversaries.effort import Effort, Sizes
from testbed.adversaries.kernel_ridge import KernelInverses, KernelRidge, KernelRidgeOptions
from testbed.adversaries.residual_decoder import (
    DecoderTraining,
    Shape,
    TrainingOptions,
    decoder_bytes,
    decoder_effort,
)
from testbed.core import seeds
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options, Positive
from testbed.scenario.threat_model import ThreatModel

_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


class AveragedDecoderOptions(TrainingOptions):
    """Options of the averaged decoder."""

    capacity: Capacity = "medium"
    patience: Annotated[int, Field(ge=1)] = Field(
        default=4, description="epochs without progress before the learning rate decays"
    )
    decays: Annotated[int, Field(ge=0)] = Field(
        default=2, description="learning-rate decays (x 0.4) before a plateau ends the training"
    )
    min_epoch_steps: Annotated[int, Field(ge=1)] = Field(
        default=40, description="least steps of an epoch, which then has several passes"
    )
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Positive = 0.002
    members: Annotated[int, Field(ge=1, le=16)] = Field(
        default=2, description="networks whose images are averaged"
    )
    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.99, description="of the moving average of the weights, for each step"
    )
    augment: bool = Field(
        default=True,
        description="vary the auxiliary images in every second pass, unless queries are limited or "
        "releases averaged; each variation is queried",
    )
    kernel_ridge: KernelRidgeOptions | None = Field(
        default=KernelRidgeOptions(),
        description="the closed form that its images are averaged with; null: none",
    )

    def varies(self, number: int, images: int) -> bool:
        """Return whether a pass, numbered from 0, is over variations of the images."""
        return self.augment and number % 2 == 1


@ATTACKS.register(
    "averaged_decoder",
    "mean of several residual decoders with averaged weights, trained on queried variations too",
    AveragedDecoderOptions,
)
class AveragedDecoder(Attack):
    """The strongest trained attack on random releases."""

    options: AveragedDecoderOptions
    threat = ThreatModel(queries=True)
    search_space: ClassVar = {
        "capacity": ("small", "medium", "large"),
        "learning_rate": (0.001, 0.002, 0.004),
        "members": (1, 2, 4),
    }

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Train on auxiliary images, keep the best epoch, reconstruct the intercepts."""
        training = AveragedTraining(self.options, evidence, seed)
        training.run(report)
        features = evidence.intercepts.features
        if self.options.kernel_ridge is None:
            return training.account(training.reconstruct(features))
        closed = KernelInverses(self.options.kernel_ridge, training.released, seed, report)
        shown = training.released.validation()
        decoded, inverted = training.reconstruct(shown), closed(shown)
        errors = [training.released.error_of(_mean(decoded, inverted, share)) for share in _SHARES]
        place = int(np.argmin(errors))  # of equal ones the first, as with constant features
        share = _SHARES[place]
        report(f"decoders {share:.0%}, closed form {1.0 - share:.0%}")

        def reconstruct(features: FloatArray) -> FloatArray:
            return _mean(training.reconstruct(features), closed(features), share)

        account = training.account(reconstruct(features))
        return replace(account, again=reconstruct, validation_mse=errors[place])

    def builds_on(self) -> Mapping[str, Options]:
        """Return the closed form, which is used alone where it is better."""
        if self.options.kernel_ridge is None:
            return {}
        closed = KernelRidge(self.options.kernel_ridge)
        return {"kernel_ridge": closed.options, **closed.builds_on()}

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the features and the images that it is trained and fitted on."""
        closed = self.options.kernel_ridge
        fitted = 0 if closed is None else KernelRidge(closed).memory_bytes(sizes)
        return decoder_bytes(sizes) + fitted

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the steps of the training of all members, and those of the closed form."""
        found = decoder_effort(self.options, evidence, intercepts, AveragedTraining)
        if self.options.kernel_ridge is not None:
            found += KernelRidge(self.options.kernel_ridge).effort(evidence, intercepts)
        return found


def _mean(decoded: FloatArray, inverted: FloatArray, share: float) -> FloatArray:
    """Return the mean of two reconstructions; the share is that of the first."""
    if share in (0.0, 1.0):
        return decoded if share else inverted
    mean: FloatArray = np.float32(share) * decoded + np.float32(1.0 - share) * inverted
    return mean


class AveragedTraining(DecoderTraining):
    """The training of all members together."""

    name = "averaged_decoder"
    options: AveragedDecoderOptions
    network: AveragedNetworks

    def _built(self, feature_shape: Shape, image_shape: Shape) -> AveragedNetworks:
        size = CAPACITIES[self.options.capacity]
        members = [
            DecoderNetwork(
                feature_shape,
                image_shape,
                size,
                seeds.torch_generator(self._seed, f"{self.name} weights", member),
            )
            for member in range(self.options.members)
        ]
        networks: AveragedNetworks = AveragedNetworks(members, self.options.decay).to(
            memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        return networks

    def step(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """Take one step of the training, which the averages follow."""
        update(optimiser, loss)
        self.network.follow()
