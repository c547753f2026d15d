"""The denoiser learns, its prior helps with coarse features, and weights must be granted."""

import numpy as np
import torch

from testbed.adversaries.learned_prior import Denoiser, LearnedPriorOptions
from testbed.adversaries.mounting import mount

FROM_MEAN = {"start": "mean_image", "levels": 6, "steps_per_level": 12}


def test_the_denoiser_removes_noise_and_keeps_clean_images(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    denoiser = Denoiser(case.evidence.auxiliary.images, LearnedPriorOptions(), 0)
    clean = torch.from_numpy(case.victims)
    level = torch.full((len(clean), 1, 1, 1), 0.2)
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    left = (denoiser(noisy, level) - clean).square().mean()
    assert float(left) < 0.4 * float((noisy - clean).square().mean())
    assert torch.equal(denoiser(clean, 0.0 * level), clean)


def test_it_beats_the_mean_image_on_coarse_features(build_case):
    def coarse(x, rng):
        return torch.nn.functional.avg_pool2d(x, 4)

    case = build_case(coarse, victims=6)
    found = mount(
        "learned_prior",
        {**FROM_MEAN, "training_steps": 150},
        case.evidence,
        0,
    )
    assert case.mse(found) < 0.4 * case.mean_image_mse
    without = mount(
        "learned_prior",
        {**FROM_MEAN, "prior_weights": [0.0], "training_steps": 1},
        case.evidence,
        0,
    )
    assert case.mse(found) < case.mse(without)


def test_no_intercepts_are_no_problem(build_case, front_ends):
    case = build_case(front_ends["pooled"], victims=0)
    found = mount("learned_prior", FROM_MEAN, case.evidence, 0)
    assert np.asarray(found.images).shape == (0, 1, 16, 16)
