"""Scores against slow, independent references and crafted cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.privacy import scores


def _images(count, channels=1, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, channels, size, size), dtype=np.float32)


def _slow_ssim_channel(a, b):
    """Wang et al. 2004, equation 13, one window at a time."""
    offsets = range(-5, 6)
    weights = np.array(
        [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in offsets] for i in offsets]
    )
    weights /= weights.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            x = a[row : row + 11, column : column + 11].astype(float)
            y = b[row : row + 11, column : column + 11].astype(float)
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx = (weights * (x - mx) ** 2).sum()
            vy = (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
            values.append(luminance * (2 * cov + c2) / (vx + vy + c2))
    return float(np.mean(values))


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 20)])
def test_ssim_equals_a_direct_loop(channels, size):
    truth = _images(3, channels, size)
    guess = np.clip(truth + 0.3 * (_images(3, channels, size, seed=1) - 0.5), 0, 1)
    expected = [
        np.mean([_slow_ssim_channel(a, b) for a, b in zip(x, y, strict=True)])
        for x, y in zip(guess, truth, strict=True)
    ]
    np.testing.assert_allclose(scores.ssim(guess, truth), expected, atol=1e-7)


def test_ssim_is_per_image_and_chunks_change_nothing(monkeypatch):
    truth, guess = _images(7), _images(7, seed=1)
    whole = scores.ssim(guess, truth), scores.mse(guess, truth)
    monkeypatch.setattr(scores, "_CHUNK", 3)
    np.testing.assert_allclose(scores.ssim(guess, truth), whole[0], atol=1e-12)
    np.testing.assert_allclose(scores.mse(guess, truth), whole[1], atol=1e-15)
    np.testing.assert_allclose(scores.ssim(guess[4:5], truth[4:5]), whole[0][4:5], atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_cosine_similarity_by_hand(channels, monkeypatch):
    truth, guess = _images(5, channels), _images(5, channels, seed=1)
    expected = []
    for image, made in zip(truth, guess, strict=True):
        a, b = image.ravel().astype(float), made.ravel().astype(float)
        a, b = a - a.mean(), b - b.mean()
        expected.append(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b)))
    np.testing.assert_allclose(scores.cosine_similarity(guess, truth), expected, rtol=1e-12)
    monkeypatch.setattr(scores, "_CHUNK", 2)
    np.testing.assert_allclose(scores.cosine_similarity(guess, truth), expected, rtol=1e-12)


def test_cosine_similarity_ignores_brightness_and_contrast_and_is_0_for_constant_images():
    truth = _images(3)
    np.testing.assert_allclose(scores.cosine_similarity(0.3 * truth + 0.2, truth), 1.0, rtol=1e-6)
    np.testing.assert_allclose(scores.cosine_similarity(1 - truth, truth), -1.0, rtol=1e-6)
    constant = np.full_like(truth, 0.1)
    assert scores.cosine_similarity(constant, truth).tolist() == [0.0] * 3
    assert scores.cosine_similarity(truth, constant).tolist() == [0.0] * 3
    assert scores.cosine_similarity(constant, constant).tolist() == [0.0] * 3


def test_small_images_and_different_shapes_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        scores.ssim(_images(1, size=12), _images(1, size=12))
    with pytest.raises(ValueError, match="same shape"):
        scores.mse(_images(2), _images(1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_mse_is_the_mean_over_every_element(channels, first, second):
    a = np.full((2, channels, 4, 4), first, dtype=np.float32)
    b = np.full((2, channels, 4, 4), second, dtype=np.float32)
    expected = (float(np.float32(first)) - float(np.float32(second))) ** 2
    np.testing.assert_allclose(scores.mse(a, b), expected, atol=1e-12)


def test_psnr_by_hand_and_capped_for_a_copy():
    np.testing.assert_allclose(
        scores.psnr_db(np.array([0.01, 1.0, 0.25])), [20.0, 0.0, 6.0206], 1e-5
    )
    assert scores.psnr_db(np.array([0.0, 1e-12])).tolist() == [100.0, 100.0]


def _shade(*levels):
    return np.stack([np.full((1, 16, 16), level, dtype=np.float32) for level in levels])


def test_reidentification_of_copies_noise_and_permuted_copies():
    pool = _images(20)
    own = np.arange(20)
    assert scores.reidentified(pool, pool, own).all()
    noisy = pool + np.random.default_rng(5).normal(0, 0.05, pool.shape).astype(np.float32)
    assert scores.reidentified(noisy, pool, own).all()
    assert not scores.reidentified(np.roll(pool, 1, axis=0), pool, own).any()


def test_one_reconstruction_for_all_identifies_at_most_one():
    pool = _images(20)
    constant = np.broadcast_to(pool.mean(axis=0), pool.shape)
    assert scores.reidentified(constant, pool, np.arange(20)).sum() == 1


def test_ties_are_broken_against_the_attacker():
    pool = _shade(0.25, 0.75)
    midway = _shade(0.5)
    for truth in (0, 1):
        assert not scores.reidentified(midway, pool, np.array([truth])).any()


def test_pixel_identical_pool_images_are_one():
    pool = _shade(0.2, 0.2, 0.9)
    assert scores.reidentified(_shade(0.2, 0.25), pool, np.array([1, 0])).all()


def test_reidentification_needs_a_true_image_in_the_pool():
    with pytest.raises(ValueError, match="outside"):
        scores.reidentified(_shade(0.1), _shade(0.1), np.array([1]))
    with pytest.raises(ValueError, match="pool"):
        scores.reidentified(_shade(0.1), _shade(0.1)[:0], np.array([0]))


def test_nearest_equals_brute_force_in_blocks(monkeypatch):
    pool, guesses = _images(15), _images(11, seed=2)
    truth = np.random.default_rng(0).integers(0, 15, 11)
    distances = ((guesses[:, None].astype(float) - pool[None]) ** 2).mean(axis=(2, 3, 4))
    # Most random guesses miss, so plant some hits.
    truth[:4] = distances[:4].argmin(axis=1)
    expected = distances.argmin(axis=1) == truth
    assert 4 <= expected.sum() < 11
    monkeypatch.setattr(scores, "_BLOCK_DISTANCES", 40)
    np.testing.assert_array_equal(scores.reidentified(guesses, pool, truth), expected)


def test_table_of_a_perfect_copy():
    pool = _images(5)
    columns = scores.score(pool[1:3], pool[1:3], pool, np.array([1, 2]))
    assert columns["mse"].tolist() == [0.0, 0.0]
    assert columns["psnr_db"].tolist() == [100.0, 100.0]
    np.testing.assert_allclose(columns["ssim"], 1.0)
    assert columns["reidentified"].all()
