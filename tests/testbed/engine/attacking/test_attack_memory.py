"""Memory of attacks: estimated from shapes, bounded, refused before a run that cannot hold it."""

import dataclasses
from types import SimpleNamespace

import psutil
import pytest

from testbed.adversaries.effort import Sizes
from testbed.adversaries.released import MATRIX_BYTES, most_pairs
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS
from testbed.engine.attacking.memory import attack_bytes, check_memory
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario

LARGE = Sizes(3000, 300, 256, 128 * 32 * 32, 3 * 64 * 64, is_random=False)
"""ResNet-18 cut after its second stage, images of 64x64."""
ESTIMATED = [
    *("ridge", "kernel_ridge", "residual_decoder", "averaged_decoder", "substitute"),
    *("label_inference", "white_box", "learned_prior"),
]


@pytest.mark.parametrize("name", ESTIMATED)
def test_estimates_grow_with_features_and_images(name):
    attack, faces = ATTACKS.create(name, {}), dataclasses.replace(LARGE, auxiliary=300)
    needed = attack.memory_bytes(faces)
    for field in ("auxiliary", "features", "intercepts"):
        half = dataclasses.replace(faces, **{field: getattr(faces, field) // 2})
        assert attack.memory_bytes(half) < needed


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge", "residual_decoder", "label_inference"])
def test_large_front_ends_fit_in_8_gb(name):
    assert ATTACKS.create(name, {}).memory_bytes(LARGE) < 8e9


def test_pairs_are_fewer_where_their_features_would_not_fit():
    assert most_pairs(3000, 4096, copies=5) == 3000
    fewer = most_pairs(3000, LARGE.features * 4, copies=5)
    assert fewer < 3000
    assert fewer * 5 * 4 * LARGE.features * 4 <= MATRIX_BYTES


def test_an_attack_that_does_not_fit_is_refused_before_the_run(tiny, monkeypatch):
    inputs = read_run_inputs(validate_scenario(tiny, "test"))
    arms = [arm_models(inputs, arm) for arm in inputs.scenario.arms]
    check_memory(inputs, arms)
    eaves = inputs.scenario.adversaries[0]
    assert attack_bytes(inputs, arms[0], eaves) > attack_bytes(inputs, arms[1], eaves)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=600 << 20))
    with pytest.raises(UserError, match=r"adversaries\.eaves\.attack: 'ridge' on arm 'undefended'"):
        check_memory(inputs, arms)
