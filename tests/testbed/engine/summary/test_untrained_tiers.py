"""A tier whose front-end keeps its first weights fails a self-check of the run."""

import pytest
from whole_runs import results_of, run

CHECK = "undefended: devices trained the front-end of every tier"


def check_of(tiny, folder):
    run(tiny, folder)
    (check,) = [item for item in results_of(folder)["self_checks"] if item["name"] == CHECK]
    return check


@pytest.fixture
def one_arm(tiny):
    tiny["arms"], tiny["adversaries"] = [tiny["arms"][0]], []
    return tiny


def test_rounds_that_trained_each_tier_are_counted(one_arm, tmp_path):
    check = check_of(one_arm, tmp_path / "run")
    assert check["passed"]
    assert check["detail"] == "rounds with updates, of 3: own 3"


def test_a_fleet_that_is_always_offline_fails_the_check(one_arm, tmp_path):
    one_arm["fleet"]["availability"] = {"name": "bernoulli", "probability": 1e-9}
    check = check_of(one_arm, tmp_path / "run")
    assert not check["passed"]
    assert check["detail"] == "rounds with updates, of 3: own 0"


def test_a_small_tier_without_places_fails_the_check(one_arm, tmp_path):
    """One device of ten; a cohort of one device in one round cannot train both tiers."""
    one_arm["fleet"]["assignments"] = [
        {"name": "narrow", "devices": ["mcu"], "front_end": {"cut": 2}}
    ]
    one_arm["training"] |= {"rounds": 1, "cohort_size": 1}
    check = check_of(one_arm, tmp_path / "run")
    assert not check["passed"]
    assert check["detail"] == "rounds with updates, of 1: own 1, narrow 0"


def test_a_provider_alone_passes_the_check(one_arm, tmp_path):
    one_arm["training"] |= {"protocol": "provider", "provider": {"epochs": 1}}
    assert check_of(one_arm, tmp_path / "run")["detail"] == "the provider alone trains"
