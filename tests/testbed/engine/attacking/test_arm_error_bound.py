"""An arm's bound: where there is one, what it is, and that beating it fails the run's check."""

import dataclasses

import numpy as np
import pytest
import torch
from small import filled, make_deployed
from whole_runs import results_of, run

from testbed.core.registries import DEFENCES
from testbed.engine.attacking.attacks import AttackResults
from testbed.engine.attacking.error_bounds import CHECKED, arm_error_bound, bound_result
from testbed.engine.attacking.replays import averaged_intercepts
from testbed.engine.setting.run_context import read_run_inputs
from testbed.engine.summary.self_checks import _bound_check_result
from testbed.privacy.error_bounds import CONFIDENCE, pulled_back
from testbed.results.schema import AttackResult, ErrorBound
from testbed.scenario.loading import validate_scenario


@pytest.fixture
def inputs(tiny):
    tiny["data"]["image_size_px"] = 32  # as the deployed front-ends below
    return read_run_inputs(validate_scenario(tiny, "test"))


def _deployed(defence="none", options=None):
    return make_deployed(defence=defence, defence_options=options)


def test_without_noise_the_floor_is_computed_to_be_zero_and_says_why(inputs):
    bound = arm_error_bound(inputs, _deployed(), 1)
    assert "deterministic" in bound.reason
    assert "the error bound is 0, as computed" in bound.reason
    (level,) = bound_result("own", bound, [1]).levels
    assert (level.mse, level.noise_free, level.replays) == (0.0, 0.0, 1)
    assert level.dfil is level.spectrum is level.cem_relative is None
    assert bound.smoothed_victims(1) is None
    dropout = arm_error_bound(inputs, _deployed("feature_dropout", {"probability": 0.5}), 1)
    assert "not additive" in dropout.reason


def test_a_front_end_that_ignores_its_images_has_a_floor_without_noise(inputs):
    deployed = _deployed()
    zeros = {name: np.zeros_like(value) for name, value in deployed.parameters.items()}
    bound = arm_error_bound(inputs, dataclasses.replace(deployed, parameters=zeros), 1)
    assert bound.reason == ""
    assert bound.at(1).mse == pytest.approx(0.01)
    smoothed = bound.smoothed_victims(1)
    assert len(smoothed.features) == len(smoothed.images) == CHECKED


@pytest.mark.parametrize(
    ("changes", "macs", "said"),
    [({}, 10**9, "too large"), ({"precision": "int8"}, 1, "8 bits")],
)
def test_where_no_floor_was_computed_none_is_stated(inputs, changes, macs, said):
    bound = arm_error_bound(inputs, make_deployed(**changes), macs)
    assert bound.reason.startswith("no error bound computed")
    assert said in bound.reason
    entry = bound_result("own", bound, [1])
    assert entry.points == 0
    assert entry.levels[0].mse is None


@pytest.mark.parametrize("name", ["gaussian_noise", "laplace_noise"])
def test_noise_has_the_floors_of_its_fisher_information(inputs, name):
    deployed = _deployed(name, {"scale": 0.5, "bound": 1.0})
    bound = arm_error_bound(inputs, deployed, 1)
    assert bound.points == len(inputs.data.parts.victims)
    rows = pulled_back(
        deployed.runner.signal, bound.checked, 200, torch.Generator().manual_seed(0)
    ).double()
    per_element = float(rows.square().sum(dim=-1).mean()) / 1024 / 0.25
    one, eight = bound.at(1), bound.at(8)
    assert one.dfil == pytest.approx(1.0 / (per_element + 100.0), rel=0.05)
    assert one.spectrum >= one.dfil
    assert 0.0 < eight.mse < one.mse < 0.01
    for level in (one, eight):
        assert level.mse == max(level.dfil_lower, level.spectrum_lower)
        assert level.dfil_lower < level.dfil
        assert level.spectrum_lower < level.spectrum
    assert 0.0 < eight.cem_relative < one.cem_relative < 1.0
    entry = bound_result("own", bound, [1])
    assert (entry.points, entry.confidence) == (bound.points, CONFIDENCE)


def test_an_expensive_front_end_has_dfil_alone(inputs):
    deployed = _deployed("gaussian_noise", {"scale": 0.5, "bound": 1.0})
    level = arm_error_bound(inputs, deployed, 10**9).at(1)
    assert level.spectrum is None
    assert 0.0 < level.mse == level.dfil_lower < level.dfil


def test_a_bound_does_not_depend_on_the_order_of_the_images(inputs):
    """The points are drawn by content; the rows of a data set may be sorted by class."""
    deployed = _deployed("gaussian_noise", {"scale": 0.5, "bound": 1.0})
    pool, parts = inputs.data.pool, inputs.data.parts
    order = np.random.default_rng(0).permutation(len(pool.images))
    place = np.argsort(order)
    shuffled = dataclasses.replace(
        inputs,
        data=dataclasses.replace(
            inputs.data,
            pool=dataclasses.replace(
                pool,
                images=pool.images[order],
                labels=pool.labels[order],
                content_keys=pool.content_keys[order],
            ),
            parts=dataclasses.replace(parts, victims=np.sort(place[parts.victims])),
        ),
    )
    bounds = [arm_error_bound(item, deployed, 10**9) for item in (inputs, shuffled)]
    assert torch.equal(*(bound.checked for bound in bounds))
    assert bounds[0].at(1).mse == bounds[1].at(1).mse


@pytest.mark.parametrize("noise", [False, True])
def test_a_front_end_without_derivatives_has_no_bound(inputs, monkeypatch, noise):
    options = {"defence": "gaussian_noise", "options": {"scale": 0.5}} if noise else {}
    deployed = _deployed(**options)
    signal = deployed.runner.signal

    def rounded(x):
        z = signal(x)
        return z + (z.round() - z).detach()

    monkeypatch.setattr(deployed.runner, "signal", rounded)
    bound = arm_error_bound(inputs, deployed, 1)
    assert "derivatives do not predict" in bound.reason
    assert bound_result("own", bound, [1]).levels[0].mse is None
    assert bound.smoothed_victims(1) is None


def _error(mse, error=0.0002):
    return {"tier": "own", "mse": mse, "standard_error": error, "images": 24}


def _results(mse, error, reason="", bound=0.005, **changes):
    attack = {
        "attack": "ridge",
        "adversary": "spy",
        "replays": 1,
        "smoothed": [] if reason else [_error(mse, error)],
    }
    levels = [{"mse": bound, "replays": 1}]
    return AttackResults(
        entries=[AttackResult.model_validate(filled(AttackResult, attack | changes))],
        error_bounds=[
            ErrorBound.model_validate(
                filled(ErrorBound, {"tier": "own", "reason": reason, "levels": levels})
            )
        ],
    )


def test_beating_the_floor_fails_the_check():
    assert not _bound_check_result(_results(0.003, 0.0002))[0]
    assert _bound_check_result(_results(0.0049, 0.0002))[0]  # within three standard errors
    passed, said = _bound_check_result(_results(0.02, 0.001))
    assert passed
    assert "ridge of spy" in said
    assert _bound_check_result(_results(0.0, 0.0, "the error bound is 0")) == (
        True,
        "the error bound is 0",
    )
    assert _bound_check_result(_results(0.0, 0.0, bound=0.0))[
        0
    ]  # no more than 0 is left of an estimate


def test_transfers_and_curves_that_beat_the_floor_fail_the_check():
    cells = [
        {"trained_on": "other", "smoothed": []},
        {"trained_on": "other", "smoothed": [_error(0.003)]},
    ]
    passed, detail = _bound_check_result(_results(0.02, 0.001, transfer=cells))
    assert not passed
    assert "ridge of spy, learned on tier 'other'" in detail
    curve = {"points": [{"share": 0.5, "smoothed": [_error(0.003)]}]}
    passed, detail = _bound_check_result(_results(0.02, 0.001, by_amount=curve))
    assert not passed
    assert "ridge of spy, with 0.5 of the amount" in detail


def test_whatever_rebuilds_images_is_held_against_the_floor(tiny, tmp_path):
    short = {"steps": 2, "decoder": {"max_epochs": 1, "min_epoch_steps": 1}}
    reads_all = {"position": {"tap": "cloud"}, "transfer": True, "curve": [0.5]}
    tiny["training"] |= {"rounds": 2, "cohort_size": 8}
    noise = {"name": "gaussian_noise", "scale": 0.5}
    front_end = {"name": "cnn", "cut": 1, "width": 8}
    tiny["arms"] = [{"name": "noise", "front_end": front_end, "defence": noise}]
    tiny["fleet"]["assignments"] = [
        {"name": "louder", "devices": ["mcu"], "defence": {"scale": 1.0}},
    ]
    tiny["adversaries"] = [
        {"name": "asks", "attack": "ridge", **reads_all},
        {"name": "learns", "attack": {"name": "substitute", **short}, **reads_all},
    ]
    results = results_of(run(tiny, tmp_path / "run"))
    points = results["arms"][0]["error_bounds"][0]["points"]
    assert points > CHECKED
    entries = [item for item in results["arms"][0]["attacks"] if not item["is_anchor"]]
    assert len(entries) == 2
    for entry in entries:
        assert [item["tier"] for item in entry["smoothed"]] == ["own", "louder"]
        assert {item["images"] for item in entry["smoothed"]} == {CHECKED}
        for cell in entry["transfer"]:
            apart = cell["trained_on"] != cell["applied_to"]
            expected = [cell["applied_to"]] if apart else []
            assert [item["tier"] for item in cell["smoothed"]] == expected
        half, whole = entry["by_amount"]["points"]
        assert [item["tier"] for item in half["smoothed"]] == ["own", "louder"]
        assert whole["smoothed"] == []  # stands in the entry already
    # Smoothed victims are decoded, not learned from: they count for no intercept.
    assert whole["amount"] == entry["victims"]
    assert all(check["passed"] for check in results["self_checks"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian_noise", {"scale": 0.7}),
        ("laplace_noise", {"scale": 0.7}),
        ("vib", {"scale": 0.7}),
        ("cem", {"scale": 0.7}),
        ("siftfunnel_plus", {"noise": 0.7}),
        ("shredder", {}),
    ],
)
def test_a_release_is_its_signal_plus_noise_of_the_declared_information(name, options):
    deployed = _deployed(name, options)
    noise_std = deployed.runner.defence.equivalent_noise_std()
    rng = np.random.default_rng(0)
    images = [rng.random((8, 1, 32, 32), dtype=np.float32) for _ in range(2)]
    unit = np.ones((), dtype=np.float32)
    if name == "shredder":  # its signal is in units of each feature's noise
        unit = np.exp(deployed.parameters["defence.release.log_scale"])
    noise = [
        deployed.query(x, 3) / unit - deployed.runner.signal(torch.from_numpy(x)).detach().numpy()
        for x in images
    ]
    np.testing.assert_allclose(*noise, atol=1e-4)  # whatever the image
    noise[0] -= noise[0].mean(axis=0) if name == "shredder" else 0.0  # its location
    # Laplace noise of scale b has deviation sqrt(2) b, and tells as much as N(0, b^2).
    laplace = name in ("laplace_noise", "shredder")
    expected = noise_std * (2.0**0.5 if laplace else 1.0)
    assert float(noise[0].std()) == pytest.approx(expected, rel=0.1)


def test_what_is_done_to_a_noisy_release_changes_no_floor():
    base = {"name": "gaussian_noise", "scale": 0.7}
    wrapped = DEFENCES.create("quantisation", {"base": base})
    assert wrapped.equivalent_noise_std() == 0.7
    assert DEFENCES.create("quantisation", {}).equivalent_noise_std() is None
    assert DEFENCES.create("siftfunnel_plus", {}).equivalent_noise_std() is None


def test_averaged_intercepts_have_less_noise_by_the_root_of_their_number():
    deployed = _deployed("gaussian_noise", {"scale": 0.5, "bound": 1.0})
    images = np.random.default_rng(0).random((16, 1, 32, 32), dtype=np.float32)
    signal = deployed.runner.signal(torch.from_numpy(images)).detach().numpy()
    once = deployed.query(images, 0)
    deviations = [
        float((averaged_intercepts(deployed, images, once, m) - signal).std()) for m in (1, 4, 16)
    ]
    np.testing.assert_allclose(deviations, [0.5, 0.25, 0.125], rtol=0.03)
