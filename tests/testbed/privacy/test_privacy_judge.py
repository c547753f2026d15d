"""The scorer's classifier recognises clean digits, not noise, and needs two classes."""

import numpy as np
import pytest

from testbed.data.federated import load_pool, to_unit
from testbed.privacy.judge import Judge
from testbed.scenario.schema import DataSection


@pytest.fixture(scope="module")
def digits():
    pool = load_pool(DataSection(name="digits", max_images=500))
    return to_unit(pool.images), pool.labels


def test_it_recognises_clear_images_and_nothing_in_noise(digits):
    images, labels = digits
    judge = Judge(images[:300], labels[:300])
    assert np.mean(judge(images[300:]) == labels[300:]) > 0.85
    rng = np.random.default_rng(0)
    rough = images[300:] + 0.05 * rng.standard_normal(images[300:].shape).astype(np.float32)
    assert np.mean(judge(rough) == judge(images[300:])) > 0.97  # robust to small errors
    grey = np.full_like(images[300:], 0.5)
    assert len(set(judge(grey).tolist())) == 1
    assert np.array_equal(judge(images[300:]), Judge(images[:300], labels[:300])(images[300:]))
    assert judge(images[:0]).shape == (0,)


def test_one_class_is_refused(digits):
    images, labels = digits
    with pytest.raises(ValueError, match="two classes"):
        Judge(images[:20], np.zeros_like(labels[:20]))
