"""What travels to an adversary's process: evidence, and no way to a victim's image or the seed."""

import copy
import dataclasses
import functools
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from leak_search import ImageSearch, reachable
from small import TINY
from whole_runs import run

from testbed.data.federated import to_unit
from testbed.engine.attacking import attacks
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario

SEED = 987654321
NOISE = {
    "name": "noise",
    "front_end": {"name": "cnn", "cut": 1, "width": 8},
    "defence": {"name": "gaussian_noise", "scale": 0.5},
}
SHORT = {"steps": 2, "decoder": {"max_epochs": 1, "min_epoch_steps": 1}}
LEARNS = {"name": "learns", "position": {"tap": "cloud"}, "curve": [0.5]}


@dataclass
class Wall:
    """What went over the wall, as the bytes that a process would get, and what is behind it."""

    scenario: object
    pickled: list
    auxiliary: np.ndarray
    victims: np.ndarray
    smoothed: np.ndarray

    @functools.cached_property
    def jobs(self):
        return [pickle.loads(data) for data in self.pickled]

    @functools.cached_property
    def hidden(self):
        """What must not be found, with the search that would find it."""
        return [(images, ImageSearch(images)) for images in (self.victims, self.smoothed)]

    def hidden_from(self, kind):
        """Return the same, for a leak of some kind."""
        return self.hidden if kind in SMOOTHED else self.hidden[:1]


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """Run a small scenario and keep every job that would go to an adversary's process."""
    tree = copy.deepcopy(TINY)
    tree["seed"] = SEED
    tree["training"]["rounds"] = 1
    tree["arms"].append(NOISE)
    tree["adversaries"].append(LEARNS | {"attack": {"name": "substitute", **SHORT}})
    scenario = validate_scenario(tree, "test")
    kept, points = [], []
    run_jobs, arm_error_bound = InlineBackend.run_jobs, attacks.arm_error_bound

    def keep(self, jobs, *others):
        # By name: those that took longest on the first arm start first on the second.
        named = sorted(jobs, key=lambda job: job[0])
        kept.extend(pickle.dumps(arguments[0]) for _, _, arguments in named)
        return run_jobs(self, jobs, *others)

    def keep_points(*arguments):
        bound = arm_error_bound(*arguments)
        points.append(bound.checked.numpy())
        return bound

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InlineBackend, "run_jobs", keep)
        patch.setattr(attacks, "arm_error_bound", keep_points)
        run(tree, tmp_path_factory.mktemp("wall") / "run")
    data = read_run_inputs(scenario).data
    return Wall(
        scenario,
        kept,
        to_unit(data.pool.images[data.parts.auxiliary]),
        to_unit(data.pool.images[data.parts.victims]),
        points[-1],
    )


def test_jobs_lead_to_no_victim_and_not_to_the_seed(wall):
    arms, adversaries = len(wall.scenario.arms), len(wall.scenario.adversaries)
    assert len(wall.pickled) == arms * (adversaries + len(LEARNS["curve"]))
    assert any(len(job.evidence.apply_to) > 1 for job in wall.jobs)  # smoothed victims' features
    own = ImageSearch(wall.auxiliary)
    for data, job in zip(wall.pickled, wall.jobs, strict=True):
        assert own.in_objects(job)  # the searches do find images
        assert own.in_bytes(data)
        for _, search in wall.hidden:
            assert not search.in_objects(job)
            assert not search.in_bytes(data)
        assert SEED not in [item for item in reachable(job) if isinstance(item, int)]


class Slotted:
    """Has no dictionary of its attributes."""

    __slots__ = ("kept",)

    def __init__(self, kept):
        self.kept = kept


class Opaque:
    """Shows nothing of what its pickle holds."""

    __slots__ = ()
    hidden = b""

    def __reduce__(self):
        return bytes, (type(self).hidden,)


def _levels(images):
    return np.rint(255.0 * images).clip(0, 255).astype(np.uint8)


# Images (N, C, H, W) in the guises that a careless change could hand over.
IN_BOTH = {
    "uint8": _levels,
    "float32": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "0 to 255": lambda x: np.float32(255.0) * x,
    "torch": torch.from_numpy,
    "torch uint8": lambda x: torch.from_numpy(_levels(x)),
}
IN_OBJECTS = {
    **IN_BOTH,
    "normalised": lambda x: (x - x.mean()) / x.std(),
    "negative": lambda x: 1.0 - x,
    "channels last": lambda x: np.moveaxis(x, 1, -1),
    "torch channels last": lambda x: torch.from_numpy(x).to(memory_format=torch.channels_last),
    "torch strided": lambda x: torch.from_numpy(x.transpose(2, 3, 1, 0).copy()).permute(3, 2, 0, 1),
    "turned": lambda x: np.rot90(x, axes=(2, 3)),
    "batch last": lambda x: np.ascontiguousarray(np.moveaxis(x, 0, -1)),
    "flat": np.ravel,
    "rows": lambda x: x.reshape(len(x), -1),
    "one image": lambda x: x[0, 0],
    "lists": lambda x: x[:1].tolist(),
    "bytes": lambda x: _levels(x).tobytes(),
    "slots": Slotted,
    "closure": lambda x: lambda: x,
    "partial": lambda x: functools.partial(print, x),
    "method": lambda x: Slotted(x).__init__,
    "array behind a view": lambda x: x.copy()[:0],
    "storage behind a view": lambda x: torch.from_numpy(x.copy())[:0],
    "array of objects": lambda x: np.array([{"kept": x}], dtype=object),
}
IN_BYTES = {
    **IN_BOTH,
    "transposed": lambda x: x.transpose(0, 1, 3, 2),
    "channels last": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)),
    "pickled twice": lambda x: pickle.dumps({"kept": x}),
    "at an odd place": lambda x: b"odd" + _levels(x).tobytes(),
    "behind a view": lambda x: torch.from_numpy(x)[:0],
}
SMOOTHED = ("float32", "float64", "torch", "normalised", "channels last", "rows", "pickled twice")


def _with(wall, leak):
    """Return an honest job with something hidden among what an adversary has learned."""
    job = wall.jobs[0]
    evidence = job.evidence
    few = {name: getattr(evidence, name).first(4) for name in ("auxiliary", "auxiliary_validation")}
    return dataclasses.replace(
        job, evidence=dataclasses.replace(evidence, trained={"weights": leak}, **few)
    )


@pytest.mark.parametrize("kind", IN_OBJECTS)
def test_a_leaked_image_is_found_among_objects(wall, kind):
    for images, search in wall.hidden_from(kind):
        assert search.in_objects(_with(wall, IN_OBJECTS[kind](images[:3])))
        assert not search.in_objects(_with(wall, IN_OBJECTS[kind](wall.auxiliary[:3])))


@pytest.mark.parametrize("kind", IN_BYTES)
def test_a_leaked_image_is_found_among_bytes(wall, kind):
    for images, search in wall.hidden_from(kind):
        assert search.in_bytes(pickle.dumps(_with(wall, IN_BYTES[kind](images[:3].copy()))))
        honest = IN_BYTES[kind](wall.auxiliary[:3].copy())
        assert not search.in_bytes(pickle.dumps(_with(wall, honest)))


def test_a_leak_that_no_walk_sees_is_found_among_bytes(wall, monkeypatch):
    monkeypatch.setattr(Opaque, "hidden", wall.victims[0].tobytes())
    job, (_, search) = _with(wall, Opaque()), wall.hidden[0]
    assert not search.in_objects(job)
    assert search.in_bytes(pickle.dumps(job))


def test_all_arms_face_the_same_attacker(wall):
    per_arm = len(wall.pickled) // len(wall.scenario.arms)
    first, second = wall.jobs[:per_arm], wall.jobs[per_arm : 2 * per_arm]
    for one, other in zip(first, second, strict=True):
        assert one.seed == other.seed
        assert np.array_equal(one.evidence.auxiliary.images, other.evidence.auxiliary.images)


def test_a_job_is_a_function_of_itself(wall):
    job = wall.jobs[0]
    once, again = attacks.run_attacks(job), attacks.run_attacks(job)
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.reconstruction.images, other.reconstruction.images)
