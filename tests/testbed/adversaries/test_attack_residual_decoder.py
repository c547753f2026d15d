"""The residual decoder: equal capacity, adapters, convergence, random releases."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from testbed.adversaries.decoder_network import CAPACITIES, DecoderNetwork, InputAdapter
from testbed.adversaries.mounting import mount
from testbed.adversaries.released import ChannelNormaliser

PLAIN = {"augment": False, "min_epoch_steps": 1}
SHAPES = [(128, 8, 8), (12, 8, 8), (12, 16, 16), (6, 32, 32), (40, 1, 1), (5, 3, 7), (4, 13, 11)]


def _network(feature_shape, image_shape=(3, 32, 32), capacity="small", seed=0):
    rng = torch.Generator().manual_seed(seed)
    return DecoderNetwork(feature_shape, image_shape, CAPACITIES[capacity], rng)


@pytest.mark.parametrize("capacity", sorted(CAPACITIES))
def test_the_body_is_the_same_for_every_feature_shape(capacity):
    networks = [_network(shape, capacity=capacity) for shape in SHAPES]
    assert len({network.body_parameters() for network in networks}) == 1
    reference = networks[0].body.state_dict()
    for network in networks[1:]:
        for name, value in network.body.state_dict().items():
            assert torch.equal(value, reference[name])
    assert len({network.adapter_parameters() for network in networks}) > 1


def test_capacities_grow_and_do_not_depend_on_the_image_size():
    counts = [_network((12, 8, 8), capacity=name).body_parameters() for name in CAPACITIES]
    assert counts == sorted(set(counts))
    larger = _network((12, 16, 16), image_shape=(3, 64, 64)).body_parameters()
    assert larger == counts[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("image_shape", [(1, 32, 32), (3, 64, 64), (3, 48, 32)])
def test_every_shape_maps_to_the_image(shape, image_shape):
    network = _network(shape, image_shape)
    assert network(torch.zeros(2, *shape)).shape == (2, *image_shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_features_give_a_zero_residual_for_any_weights(shape):
    network = _network(shape)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=rng)
    assert torch.count_nonzero(network(torch.zeros(2, *shape))) == 0
    assert torch.count_nonzero(network(torch.ones(2, *shape))) > 0


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 8, 8), (40, 1, 1), (6, 2, 4)])
def test_the_adapter_loses_nothing_before_its_convolution(shape):
    """With enough width the adapter is injective: no position is dropped or merged."""
    adapter = InputAdapter(shape, (8, 8), 48, torch.Generator().manual_seed(0))
    size = int(np.prod(shape))
    folded = adapter.folded(torch.eye(size).reshape(size, *shape))
    jacobian = adapter(folded).reshape(size, -1)
    assert torch.linalg.matrix_rank(jacobian) == size


def test_image_sides_must_divide_by_four():
    with pytest.raises(ValueError, match="30x32"):
        _network((4, 8, 8), image_shape=(1, 30, 32))


def test_normaliser_undoes_scale_shift_and_dead_channels():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3, 4, 4)).astype(np.float32)
    pattern = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    z[:, 2] = pattern  # varies over space, not between samples
    moved = z * np.array([1e-4, 300.0, 7.0], np.float32)[:, None, None] + np.float32(0.01)
    for per_element in (False, True):
        plain = ChannelNormaliser.fit(z, per_element)(z)
        np.testing.assert_allclose(
            ChannelNormaliser.fit(moved, per_element)(moved), plain, atol=2e-3
        )
        assert np.count_nonzero(plain[:, 2]) == 0
        deviations = plain - plain.mean(axis=0)
        np.testing.assert_allclose(deviations[:, :2].std(axis=(0, 2, 3)), 1.0, atol=1e-3)


def test_scaling_features_does_not_weaken_the_attack(build_case, front_ends):
    plain = build_case(front_ends["pooled"])
    shrunk = build_case(lambda x, rng: 1e-4 * front_ends["pooled"](x, rng))
    errors = [
        case.mse(mount("residual_decoder", PLAIN, case.evidence, 0)) for case in (plain, shrunk)
    ]
    assert errors[1] < 1.5 * errors[0]


def test_the_curve_starts_at_the_mean_image_and_the_best_epoch_is_used(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    found = mount("residual_decoder", PLAIN, case.evidence, 0)
    held_out = case.evidence.auxiliary_validation.images
    mean = case.evidence.auxiliary.images.mean(axis=0)
    start = found.training_curve[0]
    assert start.epoch == 0
    assert start.validation_mse == pytest.approx(((held_out - mean) ** 2).mean(), rel=1e-4)
    errors = [point.validation_mse for point in found.training_curve]
    assert found.best_epoch == int(np.argmin(errors))
    assert [point.epoch for point in found.training_curve] == list(range(len(errors)))
    shorter = mount("residual_decoder", {"max_epochs": found.best_epoch} | PLAIN, case.evidence, 0)
    np.testing.assert_array_equal(shorter.images, found.images)
    assert shorter.reached_plateau is False  # its last epoch was its best


def test_training_ends_on_a_plateau(build_case):
    def noise(x, rng):
        return torch.randn(len(x), 3, 8, 8, generator=rng)

    case = build_case(noise)
    options = {"patience": 2, "decays": 1, "max_epochs": 1000} | PLAIN
    found = mount("residual_decoder", options, case.evidence, 0)
    assert len(found.training_curve) - 1 < 60
    assert found.reached_plateau is True
    assert case.mse(found) < 1.1 * case.mean_image_mse


def test_random_releases_are_drawn_anew_every_epoch(build_case, front_ends):
    case = build_case(front_ends["noisy"])
    found = mount("residual_decoder", {"max_epochs": 5} | PLAIN, case.evidence, 0)
    full = [draw for count, draw in case.oracle.queries if count == 48]
    validation = [draw for count, draw in case.oracle.queries if count == 16]
    # The first draw fits the normaliser and is then trained on.
    assert len(set(full)) == len(found.training_curve) - 1 == 5
    assert not set(full) & set(validation)


def test_deterministic_releases_are_queried_once(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    mount("residual_decoder", {"max_epochs": 5} | PLAIN, case.evidence, 0)
    assert sum(count == 48 for count, _ in case.oracle.queries) == 1


def test_images_are_varied_with_every_pass_unless_queries_are_limited(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    options = {"max_epochs": 3, "min_epoch_steps": 12}  # 6 steps a pass: two passes an epoch
    asked = []
    plain = case.oracle.query

    def recording(images, draw):
        asked.append(images.copy())
        return plain(images, draw)

    case.oracle.query = recording
    mount("residual_decoder", options, case.evidence, 0)
    full = [images for images in asked if len(images) == 48]
    assert len(full) == 6
    assert np.array_equal(full[0], case.evidence.auxiliary.images)
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(full))
    assert all(0.0 <= images.min() <= images.max() <= 1.0 for images in full)
    asked.clear()
    limited = dataclasses.replace(case.evidence, query_limit=500)
    mount("residual_decoder", options, limited, 0)
    assert sum(len(images) == 48 for images in asked) == 1


def test_a_diverging_training_continues_from_its_best_weights(build_case, front_ends):
    """With a far too large learning rate the training diverges; after decays it is still good."""
    case = build_case(front_ends["pooled"])
    options = {"learning_rate": 0.3, "decays": 6, "max_epochs": 40} | PLAIN
    found = mount("residual_decoder", options, case.evidence, 0)
    assert case.mse(found) < 0.7 * case.mean_image_mse


def test_seeds_differ_and_an_attack_without_intercepts_works(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    runs = [
        mount("residual_decoder", {"max_epochs": 3} | PLAIN, case.evidence, seed) for seed in (0, 1)
    ]
    assert not np.array_equal(runs[0].images, runs[1].images)
    empty = build_case(front_ends["pooled"], victims=0)
    none = mount("residual_decoder", {"max_epochs": 1}, empty.evidence, 0)
    assert none.images.shape == (0, 1, 16, 16)


def test_a_training_in_bf16_errs_as_one_in_fp32(build_case, front_ends):
    case = build_case(front_ends["pooled"], auxiliary=120)
    options = {"max_epochs": 6}
    found = {
        precision: mount("residual_decoder", {**options, "precision": precision}, case.evidence, 0)
        for precision in ("fp32", "bf16")
    }
    errors = {precision: case.mse(item) for precision, item in found.items()}
    assert not np.array_equal(found["fp32"].images, found["bf16"].images)
    assert found["bf16"].images.dtype == np.float32
    assert errors["bf16"] < 0.5 * case.mean_image_mse
    assert errors["bf16"] == pytest.approx(errors["fp32"], rel=0.1)
