"""The command line: bad input, dry run, listing, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from clients.front_ends.cnn import CnnFrontEnd
from testbed.core.process import no_compiler_cache
from testbed.fleet.catalogue import CATALOGUE_PATH
from testbed.run import main

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE_YAML = """
- name: my-board
  title: A board of mine
  device_class: sbc
  ram_mb: 512
  precision: fp32
  backend: ncnn
  latency_family: cpu
  calibration_network: mobilenet_v2
  calibration_latency_ms: 80
  calibration_macs_m: 313.619
  calibration_macs_conv3x3s1_m: 0
  calibration_params_m: 3.489
  calibration_activations_m: 14.964
  source_latency: measured by me
  source_ram: data sheet
"""


def change(tree, path, value):
    keys = path.split(".")
    node = tree
    for key in keys[:-1]:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    node[int(keys[-1]) if isinstance(node, list) else keys[-1]] = value
    return tree


BAD = [
    ("fleet.sizes", 3, ["fleet.sizes", "unknown key", "did you mean 'size'"]),
    ("training.rounds", "ten", ["training.rounds", "integer"]),
    ("training.rounds", -1, ["training.rounds", "greater than or equal to 1"]),
    ("training.cohort_size", 99, ["cohort_size", "fleet.size"]),
    ("data.name", "digit", ["data", "unknown dataset", "did you mean 'digits'"]),
    ("data.options", {"image_colum": "x"}, ["data", "no option 'image_colum'"]),
    ("data.splits", {"training": 0.9}, ["data.splits", "sum to 1"]),
    ("data.max_images", 3, ["data.max_images"]),
    ("data.partitioner", "dirichle", ["partitioner", "did you mean 'dirichlet'"]),
    ("fleet.mix.0.device", "raspbery-pi-4", ["fleet.mix.0.device", "raspberry-pi-4"]),
    ("fleet.mix.0.links", {"wlan": 1.0}, ["fleet.mix.0.links", "wlan"]),
    ("fleet.catalogues", ["/nowhere/own.csv"], ["/nowhere/own.csv", "cannot read"]),
    ("fleet.infeasible", "shrink", ["fleet.infeasible", "drop", "offload_raw"]),
    ("fleet.loss_probability", 0.5, ["fleet.loss_probability", "less than 0.5"]),
    ("fleet.devices_per_access_point", 0, ["fleet.devices_per_access_point", "1"]),
    ("fleet.radio_sleep", "yes", ["fleet.radio_sleep", "boolean"]),
    ("fleet.availability", "sometimes", ["fleet.availability", "bernoulli"]),
    ("arms.1.defence", "siftfunel", ["arms.1.defence", "did you mean 'siftfunnel'"]),
    (
        "arms.1.defence",
        {"name": "siftfunnel", "bta": 1.0},
        ["arms.1.defence", "'bta'", "did you mean 'beta'"],
    ),
    ("arms.0.front_end", {"name": "cnn", "cut": 9}, ["arms.0.front_end.cut", "4"]),
    ("arms.0.front_end", {"name": "cnn", "cut": "2"}, ["arms.0.front_end.cut", "integer"]),
    ("arms.1.name", "undefended", ["arms", "twice"]),
    ("arms.0.name", "../escape", ["arms.0.name"]),
    (
        "arms.1.defence",
        {"name": "siftfunnel", "regularise": "pre_funnel"},
        ["arms.sift", "pre_funnel"],
    ),
    ("adversaries.0.attack", "residual", ["adversaries.0.attack", "residual_decoder"]),
    ("adversaries.0.position", {"tap": "cable"}, ["adversaries.0.position.tap", "links"]),
    ("training.strategy", {"name": "fedtrimmedavg", "beta": 7.0}, ["fedtrimmedavg", "beta"]),
    ("training.strategy", {"name": "krum", "num_malicious_nodes": 1}, ["cohort_size", "needs 5"]),
    ("training.strategy", {"name": "fedtrimmedavg"}, ["training.cohort_size", "needs 5", "most 4"]),
    ("fleet.mix.0.weight", float("inf"), ["fleet.mix.0.weight", "finite"]),
    ("training.strategy", "fedavrg", ["training.strategy", "did you mean 'fedavg'"]),
    ("serving.cloud_device", "cloud", ["serving.cloud_device"]),
    ("data.path", "/nowhere/at/all", ["/nowhere/at/all"]),
    ("engine.backend", "threads", ["engine.backend", "ray"]),
    ("seed", -4, ["seed"]),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD, ids=[row[0] for row in BAD])
def test_bad_values_are_one_sentence(tiny, write_scenario, tmp_path, capsys, path, value, words):
    if path == "data.path":
        tiny["data"]["name"] = "cifar10"
    scenario = write_scenario(change(tiny, path, value))
    out = tmp_path / "out"
    assert main([str(scenario), "--out", str(out)]) == 2
    assert_one_sentence(capsys, words)
    assert not out.exists()


def assert_one_sentence(capsys, words):
    # Without a terminal, finished phases are a line each; the sentence is the last.
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.endswith("done") for line in lines[:-1])
    error = lines[-1]
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for word in words:
        assert word in error, error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", ["line 1"]),
        ("- just\n- a list\n", ["mapping"]),
        ("", ["mapping"]),
        ("name: a\nname: b\n", ["line 2", "given twice"]),
        ("a: &x [1]\nb: *x\n", ["line 2", "aliases"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["line 1", "tags"]),
        ("a: 1\nb: !!int ''\n", ["line 2", "tags"]),
        (f"seed: 0x{'f' * 5000}\n", ["line 1", "20000 bits", "too large"]),
        ("1: 2\n", ["not text"]),
        ("{" * 5000, ["YAML"]),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, capsys, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert_one_sentence(capsys, ["bad.yaml", *words])


def test_missing_and_binary_files(tmp_path, capsys):
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert_one_sentence(capsys, ["none.yaml", "cannot read"])
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert main([str(binary)]) == 2
    assert_one_sentence(capsys, ["UTF-8"])
    assert main([]) == 2
    assert_one_sentence(capsys, ["scenario file"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fleet.size", ["KEY.PATH=VALUE"]),
        ("fleet.size=many", ["fleet.size"]),
        ("flet.size=4", ["flet", "did you mean 'fleet'"]),
        ("arms.absent.defence=none", ["arms.absent", "undefended"]),
        (f"arms.{'1' * 5000}.defence=none", ["arms.1111", "no such item"]),
        ("seed.deeper=1", ["seed"]),
        ("fleet.size=[1", ["fleet.size"]),
    ],
)
def test_bad_overrides_are_one_sentence(tiny, write_scenario, capsys, override, words):
    assert main([str(write_scenario(tiny)), "--set", override]) == 2
    assert_one_sentence(capsys, words)


def test_corrupt_parquet_is_named(tiny, write_scenario, tmp_path, capsys):
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 this is not parquet")
    tiny["data"] = {"name": "cifar10", "path": str(folder)}
    out = tmp_path / "out"
    assert main([str(write_scenario(tiny)), "--out", str(out)]) == 2
    assert_one_sentence(capsys, ["train-00000-of-00001.parquet"])
    assert not out.exists()


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_own_catalogues_are_relative_to_the_working_directory_and_errors_name_the_cell(
    tiny, write_scenario, tmp_path, capsys, monkeypatch, dry_run
):
    lines = CATALOGUE_PATH.read_text().splitlines()
    known = next(line for line in lines if line.startswith("nucleo-g0b1re,"))
    text = "\n".join(
        [lines[0], known.replace("nucleo-g0b1re,", "my-board,").replace(",mcu,", ",mcuu,")]
    )
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "own.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    tiny["fleet"]["catalogues"] = ["boards/own.csv"]
    assert main([str(write_scenario(tiny)), "--out", "out", *dry_run]) == 2
    assert_one_sentence(capsys, ["boards/own.csv, row 2, column 'device_class'", "'mcuu'"])
    assert not (tmp_path / "out").exists()


def test_a_dry_run_uses_own_catalogues(tiny, write_scenario, tmp_path, capsys, monkeypatch):
    own = yaml.safe_load(CATALOGUE_YAML)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.chdir(tmp_path)
    tiny["fleet"]["catalogues"] = ["own.yaml"]
    tiny["fleet"]["mix"][0]["device"] = "my-board"
    assert main([str(write_scenario(tiny)), "--dry-run"]) == 0
    assert "my-board x 6" in capsys.readouterr().out


def test_existing_results_are_kept(tiny, write_scenario, tmp_path, capsys):
    scenario, out = write_scenario(tiny), tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("precious")
    assert main([str(scenario), "--out", str(out)]) == 2
    assert_one_sentence(capsys, [str(out), "--resume", "--force", "--out"])
    assert (out / "results.json").read_text() == "precious"
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.jpg").write_text("precious")
    assert main([str(scenario), "--out", str(other), "--force"]) == 2
    assert_one_sentence(capsys, ["holiday"])
    assert (other / "photo.jpg").read_text() == "precious"
    assert main([str(scenario), "--out", str(out), "--force"]) == 2
    assert_one_sentence(capsys, ["this is none"])
    assert (out / "results.json").read_text() == "precious"
    assert main([str(scenario), "--out", str(other), "--force", "--resume"]) == 2
    assert_one_sentence(capsys, ["--force", "--resume"])


@pytest.mark.usefixtures("without_figures")
def test_resume_needs_the_same_scenario(tiny, write_scenario, tmp_path, capsys):
    scenario, out = write_scenario(tiny), tmp_path / "out"
    assert main([str(scenario), "--out", str(out), "--resume"]) == 2
    assert_one_sentence(capsys, ["nothing to resume"])
    tiny["training"]["rounds"] = 1
    tiny["adversaries"] = []
    tiny["arms"] = tiny["arms"][:1]
    scenario = write_scenario(tiny)
    assert main([str(scenario), "--out", str(out)]) == 0
    capsys.readouterr()
    before = (out / "results.json").read_bytes()
    assert main([str(scenario), "--out", str(out), "--resume", "--seed", "9"]) == 2
    assert_one_sentence(capsys, ["seed"])
    assert (out / "results.json").read_bytes() == before
    assert main([str(scenario), "--out", str(out), "--resume"]) == 0
    assert (out / "results.json").read_bytes() == before


@pytest.mark.usefixtures("without_figures")
def test_a_whole_run_and_what_it_prints(tiny, write_scenario, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(write_scenario(tiny)), "--out", str(out), "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert "undefended" in captured.out
    assert "wall time" in captured.out
    assert "report.html" in captured.out.replace("\n", "")  # a long path is wrapped
    assert "INFO" not in captured.out + captured.err  # chatter goes to run.log
    results = json.loads((out / "results.json").read_text())
    assert results["status"] == "complete"
    assert results["scenario"]["seed"] == 7
    assert all(check["passed"] for check in results["self_checks"])
    host = json.loads((out / "host.json").read_text())
    assert host["processes"][0]["cpu_s"] > 0
    assert host["reference_rate"]["images_per_s"] > 0
    assert "configure_train" in (out / "run.log").read_text()
    assert yaml.safe_load((out / "scenario.resolved.yaml").read_text())["seed"] == 7


def test_dry_run_writes_nothing(tiny, write_scenario, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(write_scenario(tiny)), "--dry-run"]) == 0
    text = capsys.readouterr().out
    for word in ("cohort_size", "raspberry-pi-4", "undefended", "estimated time", "victims"):
        assert word in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenario.yaml"]


def test_a_front_end_that_cannot_be_counted_is_refused(
    tiny, write_scenario, tmp_path, capsys, monkeypatch
):
    plain = CnnFrontEnd.forward

    def inverted(self, x):
        return plain(self, torch.linalg.inv(x + torch.eye(x.shape[-1])))

    monkeypatch.setattr(CnnFrontEnd, "forward", inverted)
    for options in ([], ["--dry-run"]):
        assert main([str(write_scenario(tiny)), "--out", str(tmp_path / "out"), *options]) == 2
        assert_one_sentence(capsys, ["arms.undefended", "'cnn'", "aten.linalg_inv_ex"])


def test_listing_names_every_kind(capsys):
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    for word in ("digits", "dirichlet", "siftfunnel_cnn", "residual_decoder", "fedadam", "wifi"):
        assert word in text


def test_listing_writes_options_within_an_option_as_a_mapping(capsys):
    assert main(["--list"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "decoder={capacity: small," in text
    assert "capacity='small'" not in text


def test_an_unwritable_folder_is_one_sentence(tiny, write_scenario, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("I am a file")
    assert main([str(write_scenario(tiny)), "--out", str(blocked / "run")]) == 2
    assert_one_sentence(capsys, ["run"])
    assert main([str(write_scenario(tiny)), "--out", str(blocked)]) == 2
    assert_one_sentence(capsys, ["existing file"])


def test_no_folder_for_compiled_code_is_created(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    no_compiler_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)  # is there: PyTorch makes none
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    no_compiler_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


def processes_of(marker):
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if marker in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.mark.processes
def test_ctrl_c_leaves_a_readable_result_and_no_process(tiny, write_scenario, tmp_path):
    tiny["engine"] = {"backend": "ray", "hosts": 2, "shard_size": 2, "cloud_threads": 1}
    tiny["training"]["rounds"] = 400
    scenario, out = write_scenario(tiny), tmp_path / "out"
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, for Ray's sockets
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed.run", str(scenario), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    checkpoints = out / "checkpoints" / "undefended"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("round-*"))) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    results = json.loads((out / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert "interrupted" in (out / "report.html").read_text().lower()
    assert processes_of(str(temporary)) == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
