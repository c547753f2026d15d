"""An arm's bound: where there is one, what it is, and that beating it fails the run's check."""

import dataclasses

import numpy as np
import pytest
import torch
from small import filled, make_deployed
from whole_runs import results_of, run

from testbed.core.registries import DEFENCES
from testbed.engine.attacking.attacks import AttackResults
from testbed.engine.attacking.error_bounds import (
    TraceEstimate,
    _trace,
    arm_error_bound,
    bound_result,
)
from testbed.engine.attacking.replays import averaged_intercepts
from testbed.engine.setting.run_context import read_run_inputs
from testbed.engine.summary.self_checks import _bound_check_result
from testbed.privacy.error_bounds import ExpectedGram
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
    assert len(smoothed.features) == len(smoothed.images) == len(bound.points)


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
    # A few of the error bound's points: exact error bounds need the dense matrix.
    few = dataclasses.replace(bound, points=bound.points[:2].double())
    gram = ExpectedGram(lambda x: deployed.runner.signal(x.float()).double(), few.points)
    directions = torch.linalg.qr(torch.randn(1024, 8, dtype=torch.float64))[0]
    seen = torch.stack([(gram @ column) @ column for column in directions.T]).mean()
    assert bound.trace.value / 1024 == pytest.approx(float(seen), rel=0.6)
    one, eight = bound.at(1), bound.at(8)
    per_element = bound.trace.value / 1024 / 0.25
    assert one.dfil == pytest.approx(1.0 / (per_element + 100.0))
    assert one.spectrum >= one.dfil
    assert 0.0 < eight.mse < one.mse < 0.01
    lower = (one.dfil - 3.0 * one.dfil_error, one.spectrum - 3.0 * one.spectrum_error)
    assert one.mse == pytest.approx(max(lower))
    # To first order, the error of 1 / (t + 100) is that of t times its square.
    error = bound.trace.standard_error / 1024 / 0.25
    assert one.dfil_error == pytest.approx(error / (per_element + 100.0) ** 2)
    assert 0.0 < eight.cem_relative < one.cem_relative < 1.0


def test_a_floor_that_is_all_error_is_zero(inputs):
    bound = arm_error_bound(
        inputs, _deployed("gaussian_noise", {"scale": 0.5, "bound": 1.0}), 10**9
    )
    unknown = dataclasses.replace(bound, trace=TraceEstimate(bound.trace.value, 1e9))
    level = unknown.at(1)
    assert level.spectrum is None
    assert level.mse == 0.0 < level.dfil


def test_the_estimated_trace_is_that_of_the_matrix():
    """A linear map, whose E[G] is known: within the stated error, which is as large as it says."""
    rng = torch.Generator().manual_seed(4)
    matrix = torch.randn(12, 16, generator=rng)
    points = torch.rand(24, 1, 4, 4, generator=rng)
    true = float(matrix.square().sum())
    estimates = [
        _trace(lambda x: x.flatten(1) @ matrix.T, points, torch.Generator().manual_seed(seed))
        for seed in range(100)
    ]
    values = np.array([estimate.value for estimate in estimates])
    errors = np.array([estimate.standard_error for estimate in estimates])
    assert (np.abs(values - true) < 4.0 * errors).mean() > 0.98
    assert 0.001 * true < errors.mean() < 0.1 * true
    assert values.std() == pytest.approx(errors.mean(), rel=0.3)
    assert values.mean() == pytest.approx(true, abs=4.0 * errors.mean() / 10.0)


def test_the_error_of_the_trace_is_over_images_too():
    """Each image scales its features by itself: traces differ, with equal probes or not."""
    points = torch.linspace(0.5, 1.5, 24)[:, None, None, None].expand(24, 1, 2, 2)
    found = _trace(lambda x: 0.5 * x.square().flatten(1), points, torch.Generator())
    traces = 4.0 * points[:, 0, 0, 0].square()  # J is the diagonal matrix of x
    assert found.value == pytest.approx(float(traces.mean()))
    assert found.standard_error == pytest.approx(float(traces.std()) / 24**0.5)
    one = _trace(lambda x: 0.5 * x.square().flatten(1), points[:1], torch.Generator())
    assert one.standard_error == pytest.approx(0.0)


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
    tiny["training"]["rounds"] = 1
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
    entries = [item for item in results["arms"][0]["attacks"] if not item["is_anchor"]]
    assert len(entries) == 2
    for entry in entries:
        assert [item["tier"] for item in entry["smoothed"]] == ["own", "louder"]
        assert {item["images"] for item in entry["smoothed"]} == {points}
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
