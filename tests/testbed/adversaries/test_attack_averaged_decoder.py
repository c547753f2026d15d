"""The averaged decoder: members, moving averages, and variations in every second pass."""

import dataclasses

import numpy as np
import pytest
import torch

from testbed.adversaries import residual_decoder
from testbed.adversaries.averaged_decoder import AveragedDecoderOptions, AveragedTraining
from testbed.adversaries.base import silent
from testbed.adversaries.decoder_network import CAPACITIES, AveragedNetworks, DecoderNetwork
from testbed.adversaries.mounting import mount
from testbed.core.registries import ATTACKS

SHORT = {"capacity": "small", "max_epochs": 3, "min_epoch_steps": 12, "kernel_ridge": None}


def networks(count=2, decay=0.9, feature_shape=(3, 4, 4)):
    members = [
        DecoderNetwork(
            feature_shape, (1, 16, 16), CAPACITIES["small"], torch.Generator().manual_seed(seed)
        )
        for seed in range(count)
    ]
    return AveragedNetworks(members, decay)


def test_averages_follow_the_members_by_hand():
    both = networks(count=1, decay=0.5)
    (member,), (average,) = both.members, both.averages
    expected = average.adapter.mix.weight.clone()
    for share in (1 - 2 / 11, 1 - 3 / 12, 1 - 4 / 13):  # the warm-up, below the decay of 0.5
        with torch.no_grad():
            member.adapter.mix.weight.add_(1.0)
        expected += share * (member.adapter.mix.weight - expected)
        both.follow()
        torch.testing.assert_close(average.adapter.mix.weight, expected)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_the_mean_of_the_averages_decodes():
    both = networks()
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.normal_(0.0, 0.05, generator=rng)
    z = both.adapter.folded(torch.randn(3, 3, 4, 4, generator=rng))
    expected = sum(average.decoded(z) for average in both.averages) / 2
    torch.testing.assert_close(both.decoded(z), expected)
    assert torch.count_nonzero(both.decoded(torch.zeros_like(z))) == 0


def test_bodies_are_the_same_for_every_feature_shape():
    one, other = networks(), networks(feature_shape=(12, 8, 8))
    for ours, theirs in zip(one.members, other.members, strict=True):
        for name, value in ours.body.state_dict().items():
            assert torch.equal(value, theirs.body.state_dict()[name])
    assert one.body_parameters() == 2 * one.members[0].body_parameters()
    assert one.body_parameters() == other.body_parameters()


def test_every_second_pass_is_over_variations_unless_queries_are_limited(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    plain, asked = case.oracle.query, []

    def recording(images, draw):
        asked.append(images.copy())
        return plain(images, draw)

    case.oracle.query = recording
    mount("averaged_decoder", SHORT, case.evidence, 0)  # 3 steps a pass, 4 passes an epoch
    passes = [images for images in asked if len(images) == 48]
    assert [np.array_equal(images, case.evidence.auxiliary.images) for images in passes] == [
        True,
        *[False] * 6,
    ]
    assert len({images.tobytes() for images in passes}) == 7
    asked.clear()
    mount("averaged_decoder", SHORT, dataclasses.replace(case.evidence, query_limit=100), 0)
    assert sum(len(images) for images in asked) <= 100


def test_the_best_epoch_of_the_averages_is_used(build_case, front_ends):
    case = build_case(front_ends["noisy"])
    training = AveragedTraining(AveragedDecoderOptions(**SHORT), case.evidence, 0)
    training.run(silent)
    held_out = case.evidence.auxiliary_validation.images
    again = training.reconstruct(training.released.validation())
    errors = [point.validation_mse for point in training.curve]
    assert np.square(again - held_out).mean() == pytest.approx(min(errors), rel=1e-5)
    assert training.best_epoch == int(np.argmin(errors))


def test_steps_and_queries_are_those_of_the_dry_run(build_case, front_ends, monkeypatch):
    case = build_case(front_ends["pooled"])
    options = SHORT | {"patience": 1000}
    attack = ATTACKS.create("averaged_decoder", options)
    query, step, _ = attack.effort(case.evidence, len(case.evidence.intercepts.features))
    steps, original = [], AveragedTraining.step
    monkeypatch.setattr(
        AveragedTraining, "step", lambda *values: (steps.append(1), original(*values))
    )
    case.oracle.queries.clear()
    mount("averaged_decoder", options, case.evidence, 0)
    assert len(steps) == step.times * residual_decoder.EXPECTED_EPOCHS**-1
    asked = sum(count for count, _ in case.oracle.queries)
    probes = 8  # whether releases are random
    assert asked - probes == pytest.approx(query.times * 16, abs=48)


def test_the_mean_with_the_closed_form_is_better_than_both(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    short, errors = SHORT | {"max_epochs": 1}, {}
    for name, attack in {
        "decoders": ("averaged_decoder", short),
        "closed": ("kernel_ridge", {}),
        "mean": ("averaged_decoder", short | {"kernel_ridge": {}}),
    }.items():
        errors[name] = mount(*attack, case.evidence, 0).validation_mse
    assert errors["mean"] < 0.95 * min(errors["decoders"], errors["closed"])


def test_the_better_one_alone_is_used_where_a_mean_is_worse(build_case, front_ends):
    case = build_case(front_ends["noisy"])
    decoded, mean = (
        mount("averaged_decoder", SHORT | {"kernel_ridge": closed}, case.evidence, 0)
        for closed in (None, {})
    )
    np.testing.assert_array_equal(mean.images, decoded.images)
    assert mean.queries > decoded.queries


def test_the_closed_form_stays_within_the_limit_of_queries(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    limited = dataclasses.replace(case.evidence, query_limit=100)
    found = mount("averaged_decoder", SHORT | {"kernel_ridge": {}}, limited, 0)
    assert found.queries <= 100
