"""Devices that the front-end does not fit: dropped, or sending raw images, and reported."""

import copy
import csv

import pyarrow.parquet as pq
import pytest
from small import TINY
from whole_runs import StopAt, everything, results_of, run

from testbed.fleet.catalogue import CATALOGUE_PATH

SMALL = "nucleo-g0b1re"  # 144 KB: the CNN cut after block 2 needs 158 KB at int8


def scenario(**fleet):
    tree = copy.deepcopy(TINY)
    tree["fleet"] |= {
        "mix": [
            {"device": "raspberry-pi-4", "weight": 3, "links": {"wifi": 1, "lte": 1}},
            {"device": SMALL, "weight": 1, "links": {"wifi": 1}},
        ],
        "loss_probability": 0.1,
        "devices_per_access_point": 2,
        **fleet,
    }
    tree["data"] |= {"max_images": 160, "image_size_px": 32}
    tree["training"] |= {"rounds": 1, "local_steps": 1}
    # A defence that draws at random: the cloud has to draw what the device would have drawn.
    tree["arms"] = [
        {"name": "noisy", "front_end": {"name": "cnn", "cut": 2}, "defence": "gaussian_noise"}
    ]
    return tree


def arm_of(folder):
    results = results_of(folder)
    assert all(check["passed"] for check in results["self_checks"])
    return results["arms"][0]


def requests_of(folder):
    return pq.read_table(folder / "requests.parquet").to_pylist()


@pytest.fixture(scope="module")
def offloaded(tmp_path_factory):
    tree = scenario(infeasible="offload_raw")
    return run(tree, tmp_path_factory.mktemp("raw") / "run", figures=True)


def test_dropped_by_default(tmp_path):
    tree = scenario()
    folder = run(tree, tmp_path / "run")
    rows = requests_of(folder)
    assert {row["status"] for row in rows if row["device_class"] == "mcu"} == {"infeasible"}
    serving = arm_of(folder)["serving"]
    assert serving["infeasible"] == sum(row["device_class"] == "mcu" for row in rows) > 0
    assert serving["offloaded_raw"] == 0
    assert not any(row["raw"] for row in rows)


def test_raw_images_are_answered_and_counted(offloaded):
    rows, arm = requests_of(offloaded), arm_of(offloaded)
    raw = [row for row in rows if row["raw"]]
    assert raw
    assert {row["device_class"] for row in raw} == {"mcu"}
    assert all(row["raw"] == (row["device_class"] == "mcu") for row in rows if row["answer"] >= 0)
    assert {row["status"] for row in raw} == {"answered"}
    assert arm["serving"]["offloaded_raw"] == len(raw)
    assert arm["serving"]["infeasible"] == 0
    by_class = {entry["device_class"]: entry for entry in arm["by_device_class"]}
    assert by_class["mcu"]["offloaded_raw"] == len(raw)
    assert by_class["sbc"]["offloaded_raw"] == 0
    assert by_class["mcu"]["infeasible_serving"] == by_class["mcu"]["devices"]


def test_the_device_computes_nothing_and_the_cloud_both_halves(offloaded):
    raw, own = ([r for r in requests_of(offloaded) if r["raw"] is kind] for kind in (True, False))
    assert {row["compute_ms"] for row in raw} == {0.0}
    cloud_ms = {row["cloud_ms"] for row in raw}
    answered = {row["cloud_ms"] for row in own if row["status"] == "answered"}
    assert len(cloud_ms) == len(answered) == 1
    assert min(cloud_ms) > max(answered) > 0.0
    # 32 x 32 pixels of 8 bits and the message around them; a lost one is sent again.
    sizes = {row["uplink_bytes"] for row in raw}
    once = min(sizes)
    assert 1024 < once < 2048
    # A request's number has one to three digits; no other byte differs.
    assert all(size - size // once * once <= 4 * (size // once) for size in sizes)


def test_attacks_skip_raw_images_but_their_interceptions_are_counted(offloaded):
    raw = {row["request"] for row in requests_of(offloaded) if row["raw"]}
    attacked = {row["request"] for row in pq.read_table(offloaded / "attacks.parquet").to_pylist()}
    assert attacked
    assert not attacked & raw
    attacks = arm_of(offloaded)["attacks"]
    read = {entry["adversary"]: entry["raw_requests"] for entry in attacks}
    assert read["cloud"] == len(raw)
    assert 0 <= read["eaves"] <= len(raw)
    assert {entry["victims"] for entry in attacks if entry["adversary"] == "cloud"} == {
        sum(row["answer"] >= 0 and not row["raw"] for row in requests_of(offloaded))
    }


def test_the_report_says_that_they_are_exposed(offloaded):
    page = (offloaded / "report.html").read_text()
    assert "fully exposed" in page
    assert "left out of every attack" in page
    assert "sent raw" in page


def test_answers_are_those_of_a_device_with_more_memory(offloaded, tmp_path):
    with CATALOGUE_PATH.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        row = next(row for row in reader if row["name"] == SMALL)
    own = tmp_path / "own.csv"
    with own.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, reader.fieldnames)
        writer.writeheader()
        writer.writerow(row | {"ram_mb": "0.25"})
    larger = run(scenario(catalogues=[str(own)]), tmp_path / "larger")
    assert not any(row["raw"] for row in requests_of(larger))
    assert [r["answer"] for r in requests_of(larger)] == [
        r["answer"] for r in requests_of(offloaded)
    ]


@pytest.mark.long
@pytest.mark.processes
def test_hosts_and_interruptions_change_no_bit(offloaded, tmp_path):
    tree = scenario(infeasible="offload_raw")
    tree["engine"] |= {"backend": "ray", "hosts": 2, "shard_size": 1}
    with pytest.raises(KeyboardInterrupt):
        run(tree, tmp_path / "run", StopAt("serve noisy", 0))
    run(tree, tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(offloaded)
