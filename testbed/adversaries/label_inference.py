"""Inference of class and person from features, without reconstructing an image.

A linear classifier on the principal components of released auxiliary features predicts the class of
each intercept. The auxiliary images never show the victims' persons. For persons the attack
therefore predicts which two intercepts show the same one: nearest neighbours after whitening the
variation within classes.

Its images are the mean auxiliary images of the classes, weighted by the predicted probabilities:
the best images that follow from the class alone.

References
----------
Shokri, Stronati, Song, Shmatikov, Membership inference attacks, IEEE S&P 2017 (the attacker trains
a classifier); Fisher, Annals of Eugenics 7(2), 1936 (within-class whitening).
"""

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from testbed.adversaries.base import Attack, Evidence, Inferred, IntArray, Reconstruction, Report
from testbed.adversaries.effort import Effort, Sizes, eigenvectors, products
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options, Positive
from testbed.scenario.threat_model import ThreatModel

Matrix = NDArray[np.float64]
_EXPECTED_ITERATIONS = 100  # of a classifier, in the dry run
_OVERHEAD_MACS = 100  # of the losses of an iteration, per image and class
_BLOCK_BYTES = 1 << 30  # of features in double precision that are projected at once
_WITHIN_RIDGE = 0.1  # of the mean variance within classes, added to every direction


class LabelInferenceOptions(Options):
    """Options of the inference."""

    components: Annotated[int, Field(ge=1, le=512)] = Field(
        default=96, description="principal components of the features that are used"
    )
    penalties: list[Positive] = Field(
        default=[0.01, 0.1, 1.0, 10.0],
        min_length=1,
        description="inverse strengths of the classifier's penalty, chosen by validation",
    )


@ATTACKS.register(
    "label_inference",
    "class and same-person pairs from features, without reconstructing an image",
    LabelInferenceOptions,
)
class LabelInference(Attack):
    """A classifier on intercepted features."""

    rebuilds_images = False
    options: LabelInferenceOptions
    threat = ThreatModel(queries=True, labels=True)
    search_space: ClassVar = {"components": (32, 96, 256)}

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Train on released auxiliary features, then classify every intercept."""
        released = ReleasedFeatures(evidence)
        auxiliary, held_out = released.auxiliary, released.auxiliary_validation
        raw = released.training(0)
        space = _Components(raw, self.options.components)
        inputs = space(raw)
        victims = space(evidence.intercepts.features)
        shares = _class_shares(auxiliary.labels, evidence.num_classes)
        probabilities = np.tile(shares, (len(victims), 1))
        if not space.is_flat and np.count_nonzero(shares) > 1:
            probabilities = self._classify(
                (inputs, auxiliary.labels),
                (space(released.validation()), held_out.labels),
                victims,
                evidence.num_classes,
            )
        means = np.stack([_class_mean(evidence, label) for label in range(evidence.num_classes)])
        images = np.tensordot(probabilities, means, axes=1)
        classes: IntArray = probabilities.argmax(axis=1).astype(np.int64)
        pairs = _nearest_other(_within_whitened(inputs, auxiliary.labels, victims))
        return Reconstruction(
            np.ascontiguousarray(images.clip(0.0, 1.0), dtype=np.float32),
            inferred=Inferred(classes, pairs),
        )

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the features, in double precision too, and of the components."""
        n, d = sizes.auxiliary, sizes.features
        shown = min(_BLOCK_BYTES, 8 * d * n) + 4 * d * sizes.intercepts
        return d * (4 * n + 8 * n + 8 * self.options.components) + 2 * shown + 24 * n * n

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the principal components and the iterations of the classifiers."""
        released = ReleasedFeatures(evidence)
        n, d = len(released.auxiliary.images), evidence.intercepts.features[0].size
        components = min(self.options.components, n)
        fit = n * d * (n + 2 * components) + intercepts * components * (d + intercepts)
        steps = len(self.options.penalties) * _EXPECTED_ITERATIONS
        classify = 2 * steps * n * (components + _OVERHEAD_MACS) * evidence.num_classes
        return [released.effort(1), eigenvectors(n), products(fit + classify)]

    def _classify(
        self,
        training: tuple[Matrix, IntArray],
        validation: tuple[Matrix, IntArray],
        victims: Matrix,
        num_classes: int,
    ) -> Matrix:
        """Return the probability of each class per victim (N, K); validation sets the penalty."""
        from sklearn.linear_model import LogisticRegression  # slow to import

        best: tuple[float, int, Any] | None = None
        for order, penalty in enumerate(self.options.penalties):
            model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3)
            model.fit(*training)
            key = (_log_loss(model, *validation), order)
            if best is None or key < best[:2]:
                best = (*key, model)
        assert best is not None
        probabilities = np.zeros((len(victims), num_classes))
        if len(victims):
            probabilities[:, best[2].classes_] = best[2].predict_proba(victims)
        return probabilities


def _log_loss(model: Any, inputs: Matrix, labels: IntArray) -> float:
    """Return the mean negative log-probability of the true classes, among those of the model."""
    column_of = {int(label): column for column, label in enumerate(model.classes_)}
    known = np.array([int(label) in column_of for label in labels], dtype=bool)
    if not known.any():
        return 0.0
    columns = np.array([column_of[int(label)] for label in labels[known]])
    of_truth = model.predict_proba(inputs[known])[np.arange(len(columns)), columns]
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())


class _Components:
    """Principal components of normalised features, scaled together to unit mean variance."""

    def __init__(self, features: NDArray[np.float32], components: int) -> None:
        self._normalise = ChannelNormaliser.fit(features, per_element=True)
        self._size = int(np.prod(features.shape[1:]))
        centred = self._flat(features)
        self._mean = centred.mean(axis=0)
        centred -= self._mean  # in place: features can be gigabytes
        # There are usually more features than images: the Gram matrix is smaller.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        kept = np.flatnonzero(values > 1e-9 * max(float(values[-1]), 1e-12))[::-1][:components]
        self.is_flat = len(kept) == 0
        scale = float(values[kept].mean() / len(features)) ** 0.5 if len(kept) else 1.0
        self._basis: Matrix = centred.T @ vectors[:, kept] / (values[kept] ** 0.5 * scale)

    def _flat(self, features: NDArray[np.float32]) -> Matrix:
        normalised = self._normalise(features)
        return normalised.reshape(len(normalised), self._size).astype(np.float64)

    def __call__(self, features: NDArray[np.float32]) -> Matrix:
        size = max(1, _BLOCK_BYTES // (8 * self._size))
        blocks = (features[start : start + size] for start in range(0, len(features), size))
        empty = np.empty((0, self._basis.shape[1]))
        return np.concatenate(
            [empty, *((self._flat(block) - self._mean) @ self._basis for block in blocks)]
        )


def _class_shares(labels: IntArray, num_classes: int) -> Matrix:
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    shares: Matrix = counts / counts.sum()
    return shares


def _class_mean(evidence: Evidence, label: int) -> NDArray[np.float64]:
    members = evidence.auxiliary.labels == label
    if not members.any():
        return mean_of(evidence.auxiliary).astype(np.float64)
    mean: NDArray[np.float64] = evidence.auxiliary.images[members].mean(axis=0, dtype=np.float64)
    return mean


def _within_whitened(inputs: Matrix, labels: IntArray, victims: Matrix) -> Matrix:
    """Return the victims' components, shrunk along the variation within classes."""
    centred = inputs - np.stack([inputs[labels == label].mean(axis=0) for label in labels])
    within = centred.T @ centred / max(1, len(centred))
    size = len(within)
    if size == 0:
        return victims
    ridge = _WITHIN_RIDGE * float(np.trace(within)) / size + 1e-12
    values, vectors = np.linalg.eigh(within + ridge * np.eye(size))
    whitened: Matrix = victims @ vectors / np.sqrt(values)
    return whitened


def _nearest_other(points: Matrix) -> IntArray:
    """Return the index of each point's nearest other point by cosine, (N,); empty for N < 2."""
    if len(points) < 2:
        return np.empty(0, dtype=np.int64)
    units = points / (np.linalg.norm(points, axis=1, keepdims=True) + 1e-12)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: IntArray = cosines.argmax(axis=1).astype(np.int64)
    return nearest
