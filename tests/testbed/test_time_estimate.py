"""The dry run's estimate, with steps of a known time instead of timed ones."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from testbed.adversaries.ridge import Ridge
from testbed.cli.dry_run import print_dry_run
from testbed.cli.run_time import MESSAGE_S, THREADED, RunTimes, Seconds
from testbed.cli.stopwatch import Stopwatch
from testbed.engine.hosts.backend import default_hosts
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario
from tests.small import TINY

STEP_S = 0.5
ROOT = Path(__file__).resolve().parents[2]


class EqualSteps(Stopwatch):
    """Gives every step the same time, and executes none."""

    def seconds(self, kind, step):
        return STEP_S


def times_of(tree, watch=None):
    inputs = read_run_inputs(validate_scenario(tree, "made"))
    run = RunTimes(inputs, watch or EqualSteps())
    return [run.arm(arm_models(inputs, arm)) for arm in inputs.scenario.arms]


def changed(section, **changes):
    return TINY | {section: TINY[section] | changes}


@pytest.fixture
def always():
    return changed("fleet", availability="always")


def test_training_by_hand(always):
    tree = always | {"training": TINY["training"] | {"evaluate_every_rounds": 3}}
    inputs = read_run_inputs(validate_scenario(tree, "made"))
    times = times_of(tree)[0].train
    steps, cohort, batch = 3 * 2, 4, 6
    assert times.parallel == pytest.approx(steps * cohort * STEP_S)
    messages = 2 * steps * cohort * MESSAGE_S
    cloud = steps * STEP_S * cohort * batch / 16  # a step is timed on 16 images
    evaluation = 2 * len(inputs.data.parts.validation) * 2 * STEP_S / 16
    assert times.serial == pytest.approx(messages + cloud + evaluation, rel=0.001)


def test_serving_by_hand(always):
    inputs = read_run_inputs(validate_scenario(always, "made"))
    victims = len(inputs.data.parts.victims)
    times = times_of(always)[0].serve
    assert times.parallel == pytest.approx(victims * STEP_S / 16)
    assert times.serial == pytest.approx(victims * (STEP_S / 16 + 2 * MESSAGE_S))


def test_offline_devices_take_no_time(always):
    half = changed("fleet", availability={"name": "bernoulli", "probability": 0.5})
    here, there = times_of(always)[0], times_of(half)[0]
    assert there.train.parallel / here.train.parallel == pytest.approx(0.5, abs=0.25)
    assert there.serve.parallel / here.serve.parallel == pytest.approx(0.5, abs=0.25)


def test_every_attack_takes_its_own_steps():
    def seconds(attack, **knowledge):
        adversary = {"name": "cloud", "position": {"tap": "cloud"}, "attack": attack}
        times = times_of(TINY | {"adversaries": [adversary | {"knowledge": knowledge}]})
        return sum(arm.by_adversary["cloud"] for arm in times)

    decoder = {"name": "residual_decoder", "max_epochs": 10}
    twice = seconds(decoder | {"max_epochs": 20}) / seconds(decoder)
    assert twice == pytest.approx(2.0, abs=0.2)
    plain = decoder | {"min_epoch_steps": 1, "augment": False}
    assert seconds(plain, auxiliary_share=0.5) / seconds(plain) == pytest.approx(0.5, abs=0.15)
    search = {"name": "white_box", "start": "mean_image", "steps": 80}
    search |= {"prior": "total_variation", "restarts": 1}
    once = seconds(search)
    assert seconds(search | {"steps": 160}) / once == pytest.approx(2.0, abs=0.2)
    # Three weights of the prior are tried on few images; every restart searches the victims' again.
    again = seconds(search | {"restarts": 2}) - once
    assert once / 8 < again < once
    assert seconds(search | {"restarts": 3}) == pytest.approx(once + 2 * again)


def test_a_second_adversary_adds_its_own_time():
    cloud = TINY["adversaries"][1]
    both, one = times_of(TINY), times_of(TINY | {"adversaries": [cloud]})
    assert set(both[0].by_adversary) == {"eaves", "cloud"}
    assert both[0].by_adversary["cloud"] == one[0].by_adversary["cloud"]
    assert both[0].attack.serial > one[0].attack.serial  # more reconstructions to score


def test_training_attacks_are_in_the_estimate():
    tree = yaml.safe_load((ROOT / "scenarios" / "training_attacks.yaml").read_text())
    sdar, fsha, ridge = tree["adversaries"]
    sdar_updates = 8  # per step of the fleet

    def training_s(adversaries, rounds=50):
        arms = tree["arms"] if fsha in adversaries else tree["arms"][:1]
        given = tree | {"adversaries": adversaries, "arms": arms}
        given["training"] = tree["training"] | {"rounds": rounds}
        return [times.train.wall(1) for times in times_of(given)]

    (added,) = (a - b for a, b in zip(training_s([sdar]), training_s([]), strict=True))
    (twice,) = (a - b for a, b in zip(training_s([sdar], 100), training_s([], 100), strict=True))
    assert added == pytest.approx(50 * sdar_updates * STEP_S)
    assert twice == pytest.approx(2.0 * added)
    # The malicious cloud works on the arm that it hijacks alone, on its pilot first.
    honest, hijacked = training_s([sdar, fsha, ridge])
    assert honest == pytest.approx(training_s([sdar])[0])
    assert hijacked - honest == pytest.approx((50 + 300) * STEP_S)


def test_the_provider_trains_once_for_all_devices():
    def train_s(threads):
        options = provider | {"threads": threads}
        return times_of(TINY | {"training": {"protocol": "provider", "provider": options}})

    provider = {"epochs": 4, "batch_size": 16, "threads": 1}
    tree = TINY | {"training": {"protocol": "provider", "provider": provider}}
    inputs = read_run_inputs(validate_scenario(tree, "made"))
    images, held_out = len(inputs.data.parts.training), len(inputs.data.parts.validation)
    steps, evaluated = 4 * images / 16, 4 * held_out
    expected = steps * STEP_S + evaluated * 2 * STEP_S / 16
    assert train_s(1)[0].train.serial == pytest.approx(expected, rel=0.01)
    threaded = expected / THREADED if default_hosts() > 1 else expected
    assert train_s(2)[0].train.serial == pytest.approx(threaded, rel=0.01)
    assert train_s(None)[0].train.serial == pytest.approx(threaded, rel=0.01)


def test_a_second_thread_and_more_hosts_help():
    threaded = changed("engine", cloud_threads=2, backend="ray", hosts=1)
    one, two = times_of(TINY)[0].train, times_of(threaded)[0].train
    if default_hosts() > 1:
        assert one.serial / THREADED < two.serial < one.serial
    assert Seconds(8.0, 1.0).wall(4) == 3.0


def test_an_attack_of_unknown_effort_is_named(monkeypatch):
    monkeypatch.setattr(Ridge, "effort", lambda self, evidence, intercepts: None)
    scenario = validate_scenario(TINY, "made")
    console = Console(width=120, record=True, quiet=False)
    print_dry_run(scenario, console)
    assert "unknown, not counted" in console.export_text()
    assert all(arm.unknown == ("ridge", "ridge") for arm in times_of(TINY))


def test_a_step_is_timed_once_and_in_one_thread():
    watch, calls = Stopwatch(), []
    first = watch.seconds("kind", lambda: calls.append(sum(range(100_000))))
    done = len(calls)
    assert watch.seconds("kind", lambda: calls.append(0)) == first > 0.0
    assert len(calls) == done >= 2  # the first of them is not counted
