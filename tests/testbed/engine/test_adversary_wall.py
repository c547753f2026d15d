"""What travels to an adversary's process: evidence, and no way to a victim's image or the seed."""

import pickle

import numpy as np
import pytest

from testbed.core.loading import validate_scenario
from testbed.data.federated import to_unit
from testbed.engine import attacks
from testbed.engine.backend import InlineBackend
from testbed.engine.experiment import Experiment
from testbed.engine.progress import Progress
from testbed.engine.world import read_setting


@pytest.fixture
def jobs(tiny, tmp_path, monkeypatch):
    """Run the small scenario and keep every job that would go to an adversary's process."""
    kept = []
    run_jobs = InlineBackend.run_jobs

    def keep(self, jobs, *others):
        kept.extend(pickle.loads(pickle.dumps(arguments[0])) for _, _, arguments in jobs)
        return run_jobs(self, jobs, *others)

    monkeypatch.setattr(InlineBackend, "run_jobs", keep)
    tiny["seed"] = 987654321
    scenario = validate_scenario(tiny, "test")
    Experiment(scenario, tmp_path / "run", Progress()).run()
    return scenario, kept


def everything_in(value, depth=0):
    """Return all arrays and numbers that an object leads to."""
    if isinstance(value, np.ndarray | int):
        return [value]
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        children = list(value)
    elif hasattr(value, "__dict__") and depth < 12:
        children = list(vars(value).values())
    else:
        children = []
    return [item for child in children for item in everything_in(child, depth + 1)]


def test_jobs_lead_to_no_victim_and_not_to_the_seed(jobs):
    scenario, kept = jobs
    assert len(kept) == len(scenario.arms) * len(scenario.adversaries)
    setting = read_setting(scenario)
    victims = {
        image.tobytes() for image in to_unit(setting.data.pool.images[setting.data.parts.victims])
    }
    auxiliary = {
        image.tobytes() for image in to_unit(setting.data.pool.images[setting.data.parts.auxiliary])
    }
    for job in kept:
        found = everything_in(job)
        images = {
            image.tobytes()
            for array in found
            if isinstance(array, np.ndarray) and array.ndim == 4
            for image in array
        }
        assert images & auxiliary  # the walk does find images
        assert not images & victims
        assert scenario.seed not in [item for item in found if isinstance(item, int)]


def test_all_arms_face_the_same_attacker(jobs):
    _, kept = jobs
    first, second = kept[:2], kept[2:]
    for one, other in zip(first, second, strict=True):
        assert one.seed == other.seed
        assert np.array_equal(one.evidence.auxiliary.images, other.evidence.auxiliary.images)


def test_a_job_is_a_function_of_itself(jobs):
    _, kept = jobs
    once, again = attacks.run_attacks(kept[0]), attacks.run_attacks(kept[0])
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.reconstruction.images, other.reconstruction.images)
