"""The anchors by hand."""

import dataclasses

import numpy as np

from testbed.adversaries.base import Intercepts, LabelledImages
from testbed.adversaries.mounting import mount


def _evidence(build_case, front_ends, answers):
    case = build_case(front_ends["pooled"])
    levels = np.array([0.0, 0.2, 0.4, 1.0], dtype=np.float32)
    images = np.broadcast_to(levels[:, None, None, None], (4, 1, 16, 16)).copy()
    labels = np.array([0, 0, 1, 1], dtype=np.int64)
    features = np.zeros((len(answers), 2, 4, 4), dtype=np.float32)
    return dataclasses.replace(
        case.evidence,
        auxiliary=LabelledImages(images, labels),
        intercepts=Intercepts(features, np.array(answers, dtype=np.int64)),
    )


def test_mean_image_is_the_mean(build_case, front_ends):
    found = mount("mean_image", {}, _evidence(build_case, front_ends, [0, 1]), 0).images
    np.testing.assert_allclose(found, 0.4, atol=1e-7)


def test_class_mean_follows_the_answer(build_case, front_ends):
    # Class 2 has no auxiliary image, -1 means no answer: both fall back to the overall mean.
    evidence = _evidence(build_case, front_ends, [1, 0, 2, -1])
    found = mount("class_mean_image", {}, evidence, 0).images
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), [0.7, 0.1, 0.4, 0.4], atol=1e-6)
