"""Serving in a whole run: batches, costs and energy add up; times equal those of a load run."""

import copy
import csv
import json

import pyarrow.parquet as pq
import pytest
import yaml
from small import TINY
from whole_runs import results_of, run

from testbed import load
from testbed.core.errors import UserError
from testbed.scenario.loading import load_scenario, validate_scenario

COMPUTE_W = 6.4 - 2.7  # of a Raspberry Pi 4, above idle
SMALL = "nucleo-g0b1re"  # the CNN cut after block 2 does not fit it


def tree_of(**serving):
    tree = copy.deepcopy(TINY)
    tree["data"] |= {"max_images": 220, "image_size_px": 32}
    tree["training"] |= {"rounds": 1, "local_steps": 1}
    tree["adversaries"] = []
    tree["arms"] = [{"name": "plain", "front_end": {"name": "cnn", "cut": 2}}]
    tree["fleet"] |= {
        "size": 10,
        "infeasible": "offload_raw",
        "mix": [
            {"device": "raspberry-pi-4", "weight": 3, "links": {"wifi": 1, "lte": 1}},
            {"device": SMALL, "weight": 1, "links": {"wifi": 1}},
        ],
    }
    tree["serving"] = {"horizon_s": 2.0, "max_batch": 4, "batch_window_ms": 30.0, **serving}
    return tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run(tree_of(), tmp_path_factory.mktemp("serving") / "run")


def read(folder):
    arm = results_of(folder)["arms"][0]
    return arm, pq.read_table(folder / "requests.parquet").to_pylist()


def test_requests_share_batches_and_raw_images_are_among_them(folder):
    arm, rows = read(folder)
    answered = [row for row in rows if row["status"] == "answered"]
    serving = arm["serving"]
    assert max(row["batch_size"] for row in answered) > 1
    assert serving["offloaded_raw"] > 0
    assert serving["cloud"]["batches"] == pytest.approx(sum(1 / r["batch_size"] for r in answered))
    busy_ms = sum(row["cloud_share_ms"] for row in answered)
    assert serving["cloud_utilisation"] == pytest.approx(busy_ms / serving["cloud"]["span_s"] / 1e3)
    assert serving["unanswered"] == len(rows) - len(answered)


def test_classes_add_up_to_the_whole(folder):
    arm, _ = read(folder)
    serving, classes = arm["serving"], arm["by_device_class"]
    for count in ("requests", "answered", "unanswered", "deadline_misses", "offloaded_raw"):
        assert sum(entry[count] for entry in classes) == serving[count]
    assert sum(entry["cloud_utilisation"] for entry in classes) == pytest.approx(
        serving["cloud_utilisation"]
    )
    for kind in ("busy", "provisioned"):
        parts = [entry["answered"] * entry["cost_usd_per_1000"][kind] for entry in classes]
        whole = serving["answered"] * serving["cost_usd_per_1000"][kind]
        assert sum(parts) == pytest.approx(whole)
    span_h = serving["cloud"]["span_s"] / 3600
    rent = serving["cloud"]["price_usd_per_hour"] * span_h / serving["answered"] * 1000
    assert serving["cost_usd_per_1000"]["provisioned"] == pytest.approx(rent)


def test_energy_is_work_and_the_radio_and_the_ledger_holds_it(folder):
    arm, rows = read(folder)
    devices = pq.read_table(folder / "devices.parquet").to_pylist()
    lte = {row["device"] for row in devices if row["link"] == "lte"}
    for device in {row["device"] for row in rows if row["status"] == "answered"}:
        tails = [row["wake_tail_mj"] or 0.0 for row in rows if row["device"] == device]
        assert (sum(tails) > 0.0) == (device in lte)
    for device in devices:
        of_requests = [
            row["energy_mj"]
            for row in rows
            if row["device"] == device["device"] and row["status"] == "answered"
        ]
        if device["serve_energy_mj"] is not None:
            # What is more is the deployment's: the front-end's weights, received once, for which
            # a cellular radio wakes up (0.6 to 1.2 s at 1.21 W) and stays awake (10 s at 1.06 W).
            rest = device["serve_energy_mj"] - sum(of_requests)
            asleep = (0.6 * 1210.7 + 10_600.0) if device["link"] == "lte" else 0.0
            assert asleep <= rest < 1.1 * asleep + 200.0
    known = [row for row in rows if row["energy_mj"] is not None]
    work = sum(row["energy_mj"] - row["wake_tail_mj"] for row in known) / len(known)
    assert arm["serving"]["work_mj_per_request"] == pytest.approx(work)


def test_bytes_and_energy_of_a_device_are_those_of_the_same_messages(folder):
    _, rows = read(folder)
    rests = []
    for device in pq.read_table(folder / "devices.parquet").to_pylist():
        if device["link"] != "wifi" or device["model"] != "raspberry-pi-4":
            continue
        own = [row for row in rows if row["device"] == device["device"]]
        served = [row for row in own if row["status"] == "answered"]
        up, down = (
            device[f"serve_{way}_bytes"] - sum(row[f"{way}_bytes"] for row in own)
            for way in ("uplink", "downlink")
        )
        energy = device["serve_energy_mj"] - sum(row["energy_mj"] for row in served)
        # What is left is the deployment alone, however many requests there were, at 0.41 uJ a byte.
        rests.append((up, down))
        assert energy == pytest.approx(0.41e-3 * (up + down), rel=1e-6)
        for row in served:
            acknowledged = row["energy_mj"] - 0.41e-3 * (
                row["uplink_bytes"] + row["downlink_bytes"]
            )
            assert acknowledged == pytest.approx(COMPUTE_W * row["compute_ms"], rel=1e-6)
    assert len(rests) > 1
    assert len(set(rests)) == 1


@pytest.mark.parametrize("tiers", [False, True])
def test_a_load_with_the_same_requests_takes_as_long(tmp_path, capsys, tiers):
    tree = tree_of()
    tree["fleet"]["radio_sleep"] = False
    if tiers:
        tree["fleet"]["assignments"] = [
            {"name": "phones", "devices": ["phone"], "front_end": {"width": 16, "cut": 1}}
        ]
        tree["fleet"]["mix"].append({"device": "pixel-4", "weight": 2, "links": {"wifi": 1}})
    tree["fleet"]["availability"] = {"name": "bernoulli", "probability": 1.0}
    arm, rows = read(run(tree, tmp_path / "run"))
    requests = tmp_path / "requests.csv"
    with requests.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["device", "arrival_s"])
        writer.writerows([row["device"], repr(row["arrival_s"])] for row in rows)
    (tmp_path / "scenario.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    arguments = [str(tmp_path / "scenario.yaml"), "--requests", str(requests), "--json"]
    assert load.main(arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)
    serving = arm["serving"]
    assert found["requests"] == serving["answered"] == len(rows)
    assert found["offloaded_raw"] == serving["offloaded_raw"] > 0
    # Messages are a few bytes shorter or longer with the digits of their request's number.
    near = {"rel": 2e-3}
    assert found["mean_batch"] == pytest.approx(serving["mean_batch"], **near)
    assert found["cloud_utilisation"] == pytest.approx(serving["cloud_utilisation"], **near)
    for kind in ("busy", "provisioned"):
        cost = found["cost_usd_per_1000"][kind]
        assert cost == pytest.approx(serving["cost_usd_per_1000"][kind], **near)
    by_class = {entry["device_class"]: entry for entry in found["classes"]}
    for entry in [*arm["by_device_class"], serving | {"device_class": "all"}]:
        of_load = by_class[entry["device_class"]]
        for name, key in (("p50_ms", "median"), ("p95_ms", "p95"), ("p99_ms", "p99")):
            assert of_load[name] == pytest.approx(entry["latency_ms"][key], **near)
        assert of_load["deadline_miss_share"] == pytest.approx(entry["deadline_miss_share"])


def test_measured_times_are_recorded_and_reproduce_the_results(tmp_path, monkeypatch):
    first = run(tree_of(cloud_service="measured"), tmp_path / "measured")
    resolved = first / "scenario.resolved.yaml"
    scenario = load_scenario(resolved)
    assert scenario.serving.cloud_service == "recorded"
    times = scenario.serving.recorded_service_ms["plain"]["own"]
    assert len(times.cloud) == len(times.front_end) == 4
    assert times.cloud == sorted(times.cloud)
    arm, rows = read(first)
    assert arm["serving"]["cloud"]["service_ms"]["own"] == pytest.approx(times.cloud)
    alone = [row for row in rows if row["batch_size"] == 1 and not row["raw"]]
    assert all(row["cloud_ms"] == pytest.approx(times.cloud[0]) for row in alone)

    def no_measuring(*arguments):
        raise AssertionError("a recorded time was measured again")

    monkeypatch.setattr("testbed.engine.serving.service_times.measured_times", no_measuring)
    again = tmp_path / "again"
    run(yaml.safe_load(resolved.read_text()), again)
    assert (again / "results.json").read_bytes() == (first / "results.json").read_bytes()
    # Resuming with the scenario as it was given takes what that run measured.
    before = (first / "results.json").read_bytes()
    run(tree_of(cloud_service="measured"), first, resume=True)
    assert (first / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("serving", "says"),
    [
        ({"cloud_service": "recorded"}, "serving.recorded_service_ms: no times of arm 'plain'"),
        (
            {
                "recorded_service_ms": {
                    "plain": {"own": {"cloud": [1.0] * 4, "front_end": [1.0] * 4}}
                }
            },
            "recorded_service_ms needs 'cloud_service: recorded'",
        ),
        (
            {
                "cloud_service": "recorded",
                "recorded_service_ms": {
                    "plain": {"own": {"cloud": [1.0, 2.0], "front_end": [1.0] * 4}}
                },
            },
            "recorded_service_ms.plain.own: give a time for every batch of 1 to max_batch (4)",
        ),
        ({"max_batch": 1}, "batch_window_ms needs a max_batch above 1"),
        ({"cloud_service": "guessed"}, "serving.cloud_service"),
    ],
)
def test_wrong_service_times_are_refused_in_one_sentence(serving, says):
    with pytest.raises(UserError) as refused:
        validate_scenario(tree_of(**serving), "s.yaml")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
