"""The contract of every registered attack."""

import ast
import dataclasses
import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import testbed.adversaries
from clients.front_ends.base import FrontEnd
from testbed.adversaries import base
from testbed.adversaries.mounting import mount
from testbed.adversaries.training_attacker import TrainingView, WatchedStep
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS, FRONT_ENDS
from testbed.core.registry import Entry, NoOptions
from testbed.scenario.components import Component
from testbed.scenario.threat_model import ThreatModel

NAMES = ATTACKS.names()
ANCHORS = [name for name in NAMES if ATTACKS.create(name, {}).is_anchor]
REBUILDING = [
    name for name in NAMES if name not in ANCHORS and ATTACKS.entry(name).factory.rebuilds_images
]
# Attacks with queries or weights must invert an invertible front-end.
TRAINED = [name for name in REBUILDING if ATTACKS.entry(name).factory.threat.queries]
HOLDING_WEIGHTS = [name for name in NAMES if ATTACKS.entry(name).factory.threat.weights]
INFERRING = [name for name in NAMES if not ATTACKS.entry(name).factory.rebuilds_images]
# Attacks without queries train a shadow front-end, and invert the identity less well. fsha does not
# invert it at all: it decodes a front-end that it has steered, and an identity cannot be steered
# (test_attack_in_training.py steers another front-end).
BLIND = {
    "substitute": {
        "steps": 150,
        "learning_rate": 0.03,
        "decoder": {"max_epochs": 6, "min_epoch_steps": 20},
    },
    "sdar": {"updates_per_step": 4, "learning_rate": 0.01},
}
# Small images need little training; the substitute's own tests measure its quality.
SHORT = {
    "residual_decoder": {"min_epoch_steps": 1},
    "averaged_decoder": {"min_epoch_steps": 1, "capacity": "small", "batch_size": 8, "decay": 0.9},
    "white_box": {"steps": 80, "restarts": 2, "decoder": {"min_epoch_steps": 1}},
    "learned_prior": {
        "start": "mean_image",
        "training_steps": 50,
        "steps_per_level": 12,
        "prior_weights": [0.0, 1e-3],
    },
    "sdar": {"updates_per_step": 1},
    "fsha": {"pilot_steps": 2},
    "substitute": {"steps": 3, "decoder": {"max_epochs": 1, "min_epoch_steps": 1}},
}
DESIGN = Component(name="cnn", options={"cut": 1, "width": 8})


def with_architecture(name, evidence):
    """Grant the architecture to an attack that needs it, with intercepts of its shape."""
    if not ATTACKS.entry(name).factory.threat.architecture:
        return evidence
    features = evidence.intercepts.features
    features = np.resize(features, (len(features), 8, 8, 8))
    trained = watched(name, evidence, features)
    intercepts = base.Intercepts(features, evidence.intercepts.answers)
    apply_to = dict.fromkeys(evidence.apply_to, features)
    granted = {"intercepts": intercepts, "apply_to": apply_to, "trained": trained}
    return dataclasses.replace(evidence, architecture=DESIGN, **granted)


def watched(name, evidence, features, options=None, architecture=DESIGN, steps=2):
    """Return what an attack learns in a few steps of training, from finite values of features."""
    if not ATTACKS.entry(name).factory.threat.watches_training:
        return None
    view = TrainingView(evidence.num_classes, evidence.auxiliary, architecture, features.shape[1:])
    training_attacker = ATTACKS.create(name, options or SHORT[name]).training_attacker(view, 0)
    sent = torch.from_numpy(np.nan_to_num(features, posinf=1.0, neginf=-1.0))
    targets = torch.eye(evidence.num_classes)[torch.arange(len(sent)) % evidence.num_classes]
    for _ in range(steps):
        # The cloud model's logits are constant.
        step = WatchedStep([sent], [targets], [0.01 * sent], lambda z: 0.0 * z.flatten(1)[:, :3])
        training_attacker.watch(step)
    return training_attacker.memory()


class OwnUnits(FrontEnd):
    """An identity with an unknown scale and shift, which an attacker must infer."""

    def __init__(self, options, image_shape):
        super().__init__()
        self.feature_shape = image_shape
        self.log_scale = torch.nn.Parameter(torch.randn(()))
        self.shift = torch.nn.Parameter(torch.randn(()))

    def forward(self, x):
        return x * self.log_scale.exp() + self.shift


@pytest.fixture
def own_units(monkeypatch):
    """Register the identity as an architecture; return its name."""
    FRONT_ENDS.names()  # loads the registry
    entry = Entry("own_units", "identity", NoOptions, OwnUnits)
    monkeypatch.setitem(FRONT_ENDS._entries, entry.name, entry)
    return Component(name=entry.name, options={})


def _mount(name, evidence, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mount(name, SHORT.get(name, {}), with_architecture(name, evidence), seed)


def test_the_known_attacks_are_registered():
    assert {"mean_image", "class_mean_image", "ridge", "residual_decoder"} <= set(NAMES)
    assert {"mean_image", "class_mean_image"} == set(ANCHORS)
    assert {"white_box", "learned_prior"} <= set(HOLDING_WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
def test_shape_range_determinism_and_untouched_inputs(name, front_ends, build_case):
    case = build_case(front_ends["noisy"], channels=3, auxiliary=24)
    state = torch.random.get_rng_state()
    first = _mount(name, case.evidence)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    again = dataclasses.replace(case.evidence, apply_to={"same": case.evidence.intercepts.features})
    second = _mount(name, again)
    assert first.images.shape == case.victims.shape
    assert first.images.dtype == np.float32
    assert first.images.flags.c_contiguous
    assert 0.0 <= first.images.min() <= first.images.max() <= 1.0
    np.testing.assert_array_equal(first.images, second.images)
    assert first.training_curve == second.training_curve
    # The learned attack applied to the same features gives the same images.
    assert second.again is None
    if name in REBUILDING:
        np.testing.assert_array_equal(second.applied["same"], first.images)
    else:
        assert second.applied == {}


@pytest.mark.parametrize("name", TRAINED)
def test_attacks_beat_the_mean_image_on_informative_features(name, front_ends, build_case):
    case = build_case(front_ends["pooled"])
    assert case.mse(_mount(name, case.evidence)) < 0.5 * case.mean_image_mse


@pytest.mark.parametrize("name", TRAINED)
def test_identity_features_are_inverted_almost_perfectly(name, front_ends, build_case):
    case = build_case(front_ends["identity"])
    assert case.mse(_mount(name, case.evidence)) < case.mean_image_mse / 30


@pytest.mark.parametrize("name", BLIND)
def test_identity_features_are_inverted_without_a_query(name, own_units, build_case, draw_images):
    case = build_case(lambda x, rng: 2.5 * x - 0.7, victims=32)
    # Features sent in training, of images that are neither the attacker's nor the victims'.
    others = 2.5 * draw_images(64, seed=5) - 0.7
    granted = dataclasses.replace(
        case.evidence,
        oracle=None,
        architecture=own_units,
        trained=watched(name, case.evidence, others, BLIND[name], own_units, steps=30),
    )
    found = mount(name, BLIND[name], granted, 0)
    assert found.queries == 0
    assert case.mse(found) < case.mean_image_mse / 3


@pytest.mark.parametrize("name", [*REBUILDING, *INFERRING])
def test_constant_features_give_exactly_the_mean_image(name, front_ends, build_case):
    case = build_case(front_ends["constant"])
    reconstruction = _mount(name, case.evidence)
    mean = case.evidence.auxiliary.images.mean(axis=0, dtype=np.float64)
    assert np.abs(reconstruction.images - mean).max() < 1e-6
    assert case.mse(reconstruction) == pytest.approx(case.mean_image_mse, abs=1e-7)


@pytest.mark.parametrize("name", INFERRING)
def test_inference_from_constant_features_is_at_chance(name, front_ends, build_case):
    case = build_case(front_ends["constant"], victims=30)
    inferred = _mount(name, case.evidence).inferred
    # The prediction is the same for all, so it is right as often as a constant guess.
    assert len(set(inferred.classes.tolist())) == 1
    right = np.mean(inferred.classes == case.evidence.intercepts.answers)
    assert right == pytest.approx(1 / case.evidence.num_classes, abs=0.04)
    assert len(set(inferred.same_person[1:].tolist())) == 1


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_ignore_features_and_never_query(name, front_ends, build_case):
    case = build_case(front_ends["pooled"])
    rng = np.random.default_rng(0)
    features = rng.normal(size=case.evidence.intercepts.features.shape).astype(np.float32)
    other = dataclasses.replace(
        case.evidence,
        intercepts=base.Intercepts(features, case.evidence.intercepts.answers),
        oracle=None,
    )
    np.testing.assert_array_equal(_mount(name, case.evidence).images, _mount(name, other).images)
    assert case.oracle.queries == []


@pytest.mark.parametrize("name", NAMES)
def test_query_access_is_declared(name, front_ends, build_case):
    case = build_case(front_ends["pooled"])
    blind = dataclasses.replace(case.evidence, oracle=None)
    if ATTACKS.create(name, {}).threat.queries:
        with pytest.raises(UserError, match=f"'{name}' needs query access"):
            mount(name, {}, blind, 0)
    else:
        found = _mount(name, blind)
        assert len(found.images) == len(case.victims)
        assert found.queries == 0


@pytest.mark.parametrize("name", HOLDING_WEIGHTS)
def test_weights_must_be_granted(name, front_ends, build_case):
    case = build_case(front_ends["pooled"])

    class QueriesOnly:
        def query(self, images, draw):
            return case.oracle.query(images, draw)

    evidence = dataclasses.replace(case.evidence, oracle=QueriesOnly())
    with pytest.raises(UserError, match="needs the weights"):
        mount(name, SHORT.get(name, {}), evidence, 0)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_still_give_images(name, front_ends, build_case):
    case = build_case(front_ends["pooled"])
    features = case.evidence.intercepts.features.copy()
    features[0] = np.nan
    features[1, :, 0] = np.inf
    broken = dataclasses.replace(
        case.evidence,
        intercepts=base.Intercepts(features, case.evidence.intercepts.answers),
    )
    images = mount(name, SHORT.get(name, {}), with_architecture(name, broken), 0).images
    assert np.isfinite(images).all()
    assert 0.0 <= images.min() <= images.max() <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_threat_models_and_search_spaces_are_declared(name):
    entry = ATTACKS.entry(name)
    assert isinstance(entry.factory.threat, ThreatModel)
    assert entry.factory.threat.words()
    for option, values in entry.factory.search_space.items():
        for value in values:
            entry.options.model_validate({option: value})
    assert not (entry.factory.threat.weights and not entry.factory.threat.queries)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_evidence_reaches_an_attack(name):
    entry = ATTACKS.entry(name)
    assert list(inspect.signature(entry.factory).parameters) == ["options"]
    mounted = inspect.signature(ATTACKS.create(name, {}).mount)
    assert list(mounted.parameters) == ["evidence", "seed", "report"]


def test_evidence_has_no_place_for_a_victims_image():
    def fields(kind):
        return {field.name for field in dataclasses.fields(kind)}

    assert fields(base.Evidence) == {
        "num_classes",
        "auxiliary",
        "auxiliary_validation",
        "intercepts",
        "oracle",
        "query_limit",
        "architecture",
        "replays",
        "apply_to",
        "trained",
    }
    assert fields(base.Intercepts) == {"features", "answers"}
    assert fields(base.LabelledImages) == {"images", "labels"}


def test_attacks_import_nothing_that_holds_true_images():
    folder = Path(testbed.adversaries.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                own = module.split(".")[0] in ("testbed", "clients", "server")
                allowed = module.startswith(
                    ("testbed.adversaries", "testbed.core", "testbed.scenario", "testbed.wire")
                )
                assert allowed or not own, f"{path.name} imports {module}"


def test_mounting_restores_the_thread_count_and_needs_images(front_ends, build_case):
    case = build_case(front_ends["pooled"])
    torch.set_num_threads(2)
    try:
        mount("mean_image", {}, case.evidence, 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    empty = base.LabelledImages(case.victims[:0], np.empty(0, dtype=np.int64))
    for part in ("auxiliary", "auxiliary_validation"):
        with pytest.raises(UserError, match="no auxiliary images"):
            mount("ridge", {}, dataclasses.replace(case.evidence, **{part: empty}), 0)
