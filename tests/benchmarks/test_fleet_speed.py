"""The speed benchmark: its tables, the order of its runs, and resuming."""

import fleet_speed
import pytest
import torch
from fleet_speed import contenders, flatness, main, parse, table, training_table, turns
from speed.central_training import CASES, our_training
from speed.plain_loop import PlainLoop

from testbed.core.threads import torch_threads

RATES = {
    ("A", 100, "ours"): [150.0, 160.0, 140.0],
    ("A", 100, "limit"): [200.0, 200.0, 200.0],
    ("A", 10_000, "ours"): [125.0, 160.0, 120.0],
}


@pytest.fixture
def rows():
    return [
        {"workload": w, "devices": d, "contender": c, "repeat": repeat, "rounds": 3, "rate": rate}
        for (w, d, c), rates in RATES.items()
        for repeat, rate in enumerate(rates)
    ]


def test_multiples_are_medians_within_a_repeat(rows):
    lines = table(rows).splitlines()
    assert "| A | 100 | torch alone, 2 processes | 3 x 3 | 200 | 200 to 200 | 0.75 |" in lines
    assert "| A | 100 | this testbed | 3 x 3 | 150 | 140 to 160 |  |" in lines


def test_flatness_is_time_per_device_round_against_the_smallest_fleet(rows):
    assert flatness(rows).splitlines()[-1] == "| A | 1.17 |"


def test_peers_do_not_run_at_the_largest_size():
    assert list(contenders("A", 10_000, "python")) == ["ours", "limit"]
    assert list(contenders("A", 100, None)) == ["ours", "limit", "flower_simulation"]


@pytest.fixture
def runs(monkeypatch):
    """Replace the contenders; return the list of runs."""
    made = []

    def run_once(*turn):
        made.append(turn[:3])
        return 10.0

    monkeypatch.setattr(fleet_speed, "run_once", run_once)
    return made


def test_a_resumed_benchmark_runs_only_what_is_missing(tmp_path, runs, capsys):
    command = ["--devices", "100", "--workloads", "B", "--out", str(tmp_path), "--repeats"]
    assert main([*command, "1"]) == 0
    assert runs == [(name, "B", 100) for name in ("ours", "limit", "flower_simulation")]
    assert main([*command, "2", "--resume", "--rounds", "1"]) == 0
    assert len(runs) == 6
    assert "| B | 100 | this testbed | 2 x 1 to 3 | 10 |" in capsys.readouterr().out


def test_a_document_without_the_block_is_rejected_before_anything_runs(tmp_path, runs, capsys):
    document = tmp_path / "speed.md"
    document.write_text("nothing")
    assert main(["--out", str(tmp_path / "out"), "--document", str(document)]) == 2
    assert "fleet_speed.py: begin" in capsys.readouterr().err
    assert runs == []
    assert not (tmp_path / "out").exists()


OTHER_WORKLOADS = ("B", "C", "D undefended fp32")


@pytest.mark.processes
@pytest.mark.parametrize(
    "workload", ["A", *(pytest.param(name, marks=pytest.mark.long) for name in OTHER_WORKLOADS)]
)
def test_the_engine_runs_every_workload(workload):
    assert fleet_speed.run_once("ours", workload, 4, 1, "") > 0.0


@pytest.mark.parametrize("case", CASES)
def test_the_plain_loop_computes_the_loss_and_the_step_of_our_training(case):
    _, arm, precision = case.split(" ")
    ours, plain = our_training(arm, precision, 1, threads=1), PlainLoop(arm, precision)
    x = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 10
    ours.train_mode(True)
    with torch_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # of the dropout
        task, penalty, _ = ours.joint.step(x, labels, torch.Generator()).tolist()
        torch.manual_seed(7)
        loss = plain.loss(x, labels)
        loss.backward()
    task_weight = ours.tiers[0].edge.defence.task_weight
    assert float(loss.detach()) == pytest.approx(task_weight * task + penalty, rel=1e-5)
    modules = (ours.tiers[0].edge.front_end, ours.cloud)
    ours_flat, plain_flat = (
        torch.cat([parameter.grad.flatten() for parameter in parameters])
        for parameters in ([p for m in modules for p in m.parameters()], plain.parameters)
    )
    # bf16 has 8 significant bits, and the plain loop sums some gradients in it.
    tolerance = 1e-5 if precision == "fp32" else 2**-7
    assert float((plain_flat - ours_flat).norm()) < tolerance * float(ours_flat.norm())


def test_the_plain_loop_takes_the_optimiser_and_the_images_of_our_training():
    ours, plain = our_training("siftfunnel", "fp32", 1, threads=1), PlainLoop("siftfunnel", "fp32")
    (group,), (here,) = ours.joint._optimiser.param_groups, plain._adam.param_groups
    for key in ("lr", "betas", "eps", "weight_decay", "amsgrad", "fused"):
        assert here[key] == group[key]
    assert len(here["params"]) == len(group["params"])
    assert torch.equal(plain._pixels, torch.from_numpy(ours.data.images))
    layers = [m for part in (plain.front, plain.cloud) for m in part.modules()]
    assert {type(layer) for layer in layers} >= {torch.nn.Conv2d, torch.nn.Dropout}
    for weight in plain.parameters:
        assert weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)
    assert 0.0 <= plain.epoch() <= 1.0


def test_trainings_have_a_table_of_their_own():
    rates = {"ours": [90.0, 96.0], "plain_loop": [100.0, 100.0]}
    rows = [
        {"workload": "D siftfunnel bf16", "devices": 1280, "contender": name}
        | {"repeat": repeat, "rounds": 3, "rate": rate}
        for name, found in rates.items()
        for repeat, rate in enumerate(found)
    ]
    line = "| D siftfunnel bf16 | 1,280 | plain torch loop | 2 x 3 | 100 | 100 to 100 | 0.93 |"
    assert line in training_table(rows)
    assert "siftfunnel" not in table(rows)


def test_bf16_is_timed_only_where_the_processor_has_it(monkeypatch):
    options = parse(["--repeats", "1", "--workloads", "D"])
    for has, cases in ((True, set(CASES)), (False, {c for c in CASES if c.endswith("fp32")})):
        monkeypatch.setattr(fleet_speed, "has_bf16", lambda device, has=has: has)
        assert {turn[2] for turn in turns(options)} == cases
