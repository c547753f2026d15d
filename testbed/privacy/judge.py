"""An independent classifier, trained on clean images, that classifies reconstructions.

It measures whether the class is recognisable in a reconstruction; pixel errors hardly do.
Only the scoring uses it; adversaries do not have it. Kernel classification of principal components
is strong on few images, and needs no training schedule.

References
----------
Turk, Pentland, Eigenfaces for recognition, Journal of Cognitive Neuroscience 3(1), 1991; Cortes,
Vapnik, Support-vector networks, Machine Learning 20(3), 1995.
"""

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import FloatArray, IntArray

LIBRARIES = ("sklearn.decomposition", "sklearn.pipeline", "sklearn.svm")
"""What the first judge imports, which takes a second."""

MAX_IMAGES = 3000
COMPONENTS = 60
PENALTY = 10.0


class Judge:
    """Predicts the class of an image.

    Parameters
    ----------
    images, labels : clean images in [0, 1] (N, C, H, W) and their classes (N,); the first
        ``MAX_IMAGES`` are used.

    Raises
    ------
    ValueError : fewer than two classes.
    """

    def __init__(self, images: FloatArray, labels: IntArray) -> None:
        from sklearn.decomposition import PCA  # slow to import
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC

        images, labels = images[:MAX_IMAGES], labels[:MAX_IMAGES]
        self.classes = np.unique(labels)
        if len(self.classes) < 2:
            raise ValueError("a judge needs images of at least two classes")
        flat = _flat(images)
        components = max(1, min(COMPONENTS, len(flat) - 1, flat.shape[1]))
        # The full solver, because the randomised one depends on a random state.
        self._pipeline = make_pipeline(
            # Not whitened: whitening would amplify the errors of a reconstruction.
            PCA(components, svd_solver="full"),
            SVC(C=PENALTY, kernel="rbf", gamma="scale"),
        )
        self._pipeline.fit(flat, labels)

    def __call__(self, images: FloatArray) -> IntArray:
        """Return the class of each image (N,)."""
        if len(images) == 0:
            return np.empty(0, dtype=np.int64)
        predicted: IntArray = self._pipeline.predict(_flat(images)).astype(np.int64)
        return predicted


def _flat(images: FloatArray) -> NDArray[np.float64]:
    return images.reshape(len(images), -1).astype(np.float64)
