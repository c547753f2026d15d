"""Attacks say the steps that they take: counted in a real attack, and compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from testbed.adversaries import feature_search, residual_decoder, substitute
from testbed.adversaries.base import Attack, Intercepts
from testbed.adversaries.effort import eigenvectors, products
from testbed.adversaries.feature_search import FeatureDistance, Search
from testbed.adversaries.mounting import mount
from testbed.adversaries.training_attacker import TrainingView, WatchedStep
from testbed.core.registries import ATTACKS
from testbed.scenario.components import Component
from tests.testbed.adversaries.test_attack_contract import SHORT, with_architecture

# A decoder that trains to its last epoch.
STUBBORN = {"max_epochs": 3, "patience": 1000, "min_epoch_steps": 1, "augment": False}


@pytest.fixture
def counted(monkeypatch):
    """Return a function that counts the calls of a function in a module."""

    def count(module, name):
        original, calls = getattr(module, name), []

        def called(*args, **kwargs):
            calls.append(torch.is_grad_enabled())
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, called)
        return calls

    return count


def effort_of(name, options, evidence):
    efforts = ATTACKS.create(name, options).effort(evidence, len(evidence.intercepts.features))
    return {effort.what.split()[0]: effort for effort in efforts}


@pytest.mark.parametrize("batch_size", [5, 8])
@pytest.mark.parametrize("least", [1, 30])
def test_steps_of_a_decoder(build_case, front_ends, counted, batch_size, least):
    evidence = build_case(front_ends["pooled"]).evidence
    options = STUBBORN | {"batch_size": batch_size, "min_epoch_steps": least}
    expected = effort_of("residual_decoder", options, evidence)["step"].times
    calls = counted(residual_decoder, "update")
    mount("residual_decoder", options, evidence, 0)
    assert len(calls) == expected * residual_decoder.EXPECTED_EPOCHS**-1


@pytest.mark.parametrize(
    ("kind", "augment"), [("pooled", False), ("noisy", False), ("noisy", True)]
)
def test_queries_of_a_decoder(build_case, front_ends, kind, augment):
    case = build_case(front_ends[kind])
    options = STUBBORN | {"augment": augment}
    query = effort_of("residual_decoder", options, case.evidence)["query"]
    case.oracle.queries.clear()
    query.step()
    ((images, _),) = case.oracle.queries
    case.oracle.queries.clear()
    mount("residual_decoder", options, case.evidence, 0)
    asked = sum(count for count, _ in case.oracle.queries)
    probes = 8  # whether releases are random
    assert asked - probes == pytest.approx(
        query.times * images, abs=len(case.evidence.auxiliary.images)
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("white_box", {"start": "mean_image", "steps": 16, "tuning_images": 9, "restarts": 2}),
        ("white_box", {"start": "mean_image", "steps": 16, "prior": "total_variation"}),
        (
            "learned_prior",
            {"start": "mean_image", "levels": 3, "steps_per_level": 2, "tuning_images": 9},
        ),
    ],
)
def test_steps_of_a_search(build_case, front_ends, counted, monkeypatch, name, options):
    evidence = build_case(front_ends["pooled"], victims=10).evidence
    height, width = evidence.auxiliary.images.shape[2:]
    monkeypatch.setattr(feature_search, "_PIXELS", 8 * height * width)
    efforts = ATTACKS.create(name, options).effort(evidence, len(evidence.intercepts.features))
    (search,) = [effort for effort in efforts if "search" in effort.what]
    original = Search.best_choice

    def to_the_end(self, count, weights, stops, run):
        return original(self, count, weights, stops, run)._replace(stop=list(stops)[-1])

    monkeypatch.setattr(Search, "best_choice", to_the_end)
    calls = counted(FeatureDistance, "__call__")
    mount(name, options, evidence, 0)
    assert sum(calls) == search.times  # without the calls that compare restarts


def test_steps_of_a_substitute(build_case, front_ends, counted):
    evidence = with_architecture("substitute", build_case(front_ends["pooled"]).evidence)
    sent = np.random.default_rng(0).standard_normal((8, 8, 8, 8)).astype(np.float32)
    evidence = replace(evidence, intercepts=Intercepts(sent, evidence.intercepts.answers))
    options = {"steps": 7, "decoder": STUBBORN}
    expected = ATTACKS.create("substitute", options).effort(evidence, 8)
    alignment, _, step, _ = expected
    assert alignment.times == 7
    aligned, trained = counted(substitute, "discrepancy"), counted(residual_decoder, "update")
    mount("substitute", options, evidence, 0)
    assert (len(aligned), len(trained)) == (7, step.times)


@pytest.mark.parametrize("name", ["sdar", "fsha"])
def test_steps_beside_the_training(build_case, front_ends, name):
    evidence = build_case(front_ends["pooled"]).evidence
    view = TrainingView(
        3, evidence.auxiliary, Component(name="cnn", options={"cut": 1, "width": 8}), (8, 8, 8)
    )
    sent = torch.randn(12, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[torch.arange(12) % 3]
    step = WatchedStep([sent], [targets], [0.01 * sent], lambda z: 0.0 * z.flatten(1)[:, :3])
    efforts = ATTACKS.create(name, {}).training_effort(view, step, 40)
    assert [effort.times for effort in efforts] == ([300, 40] if name == "fsha" else [320])
    for effort in efforts:
        effort.step()


@pytest.mark.parametrize("kind", ["pooled", "noisy"])
@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_says_steps_that_can_be_timed(build_case, front_ends, name, kind):
    evidence = with_architecture(name, build_case(front_ends[kind]).evidence)
    efforts = ATTACKS.create(name, SHORT.get(name, {})).effort(evidence, 8)
    assert efforts is not None
    for effort in efforts:
        assert effort.times > 0.0
        effort.step()


def test_work_of_matrices_by_hand():
    assert products(2 * 256**3).times == 2.0
    assert products(256**3, np.float32).what == "matrix product, float32"
    assert eigenvectors(512).times == 8.0


def test_an_attack_may_leave_its_effort_unknown(build_case, front_ends):
    assert Attack({}).effort(build_case(front_ends["pooled"]).evidence, 8) is None


@pytest.mark.parametrize("name", ["ridge", "residual_decoder", "label_inference"])
def test_the_queries_of_an_attack_are_known_beforehand(name, build_case, front_ends):
    case = build_case(front_ends["pooled"], auxiliary=120)
    options = STUBBORN | {"max_epochs": 1} if name == "residual_decoder" else {}
    efforts = ATTACKS.create(name, options).effort(case.evidence, 8)
    expected = sum(effort.times * effort.images for effort in efforts)
    probes = 2 * 4  # whether releases are random
    asked = mount(name, options, case.evidence, seed=0).queries
    assert asked == expected + probes
