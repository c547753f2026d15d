"""Checks the testbed's apps on Flower's own runtime, against FleetGrid, on this machine's loopback.

    python benchmarks/flower_runtime.py --document docs/flower.md     # minutes on two cores
    python benchmarks/flower_runtime.py --only deployment

*simulation*: a SuperLink in simulation mode, the app started by ``flwr run``, one virtual
SuperNode per device. *deployment*: a SuperLink, one SuperNode process per device, and ``flwr run``:
what runs on real devices, without their network. Both train the same small scenario; the largest
difference of any trained weight from FleetGrid's must be zero. Every process started here is ended
here.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from testbed.core.progress import Progress
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.network.grid import fleet_grid
from testbed.engine.setting.run_context import RunContext
from testbed.engine.training.fleet import prepare, train
from testbed.flower.run_config import RunConfig, chosen_arm
from testbed.pages.documents import Block, markdown_table, measured_into

BLOCK = Block("python benchmarks/flower_runtime.py")
RUNTIMES = {
    "simulation": "Flower's simulation",
    "deployment": "SuperLink and SuperNodes",
}
ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DEVICES = 2
LIMIT_S = 1200.0
SCENARIO: dict[str, Any] = {
    "name": "loopback",
    "data": {"max_images": 200},
    "fleet": {
        "size": DEVICES,
        "mix": [{"device": "raspberry-pi-4"}],
        "availability": {"name": "bernoulli", "probability": 1.0},
    },
    "training": {
        "rounds": 2,
        "cohort_size": DEVICES,
        "local_steps": 1,
        "batch_size": 8,
        "round_deadline_s": 1e9,
    },
    "arms": [{"name": "sift", "front_end": "siftfunnel_cnn", "defence": "siftfunnel"}],
    "engine": {"backend": "inline", "cloud_threads": 1},
}


def weights_on_fleet_grid(config: RunConfig, folder: Path) -> dict[str, Tensor]:
    """Train a configuration's arm on the testbed's Grid; return its last checkpoint."""
    chosen = chosen_arm(config)
    models = chosen.new_models()
    backend = InlineBackend(chosen.inputs.host_data())
    backend.install([tier.device_spec for tier in models.tiers])
    run_context = RunContext(chosen.inputs, backend, folder, Progress())
    train(run_context, prepare(run_context, models, fleet_grid(run_context, models, [])))
    last = chosen.scenario.training.rounds
    checkpoints: Path = folder / "checkpoints" / chosen.arm.name
    return load_file(checkpoints / f"round-{last:06d}.safetensors")


def largest_difference(weights: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Return the largest absolute difference of any weight; all must have one to compare with."""
    return max(
        float((weights[name].double() - reference[name].double()).abs().max()) for name in weights
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def _process(command: list[str], env: dict[str, str], log: Path) -> Iterator[None]:
    """Run a command in the background, and end it with everything that it started."""
    import psutil

    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - Flower's own programs
            command, cwd=ROOT, env=env, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        process.terminate()
        _, alive = psutil.wait_procs(started, timeout=10)
        for each in alive:
            each.kill()
        process.wait(10)


def _environment(home: Path, port: int) -> dict[str, str]:
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n"
    )
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # would need a package index
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


def run_on_flower(kind: str, scenario: Path, out: Path, home: Path) -> None:
    """Run the app on a SuperLink of its own: ``simulation`` or ``deployment``."""
    api, *nodes = _free_ports(1 + DEVICES)
    env = _environment(home, api)
    superlink = [str(BIN / "flower-superlink"), "--insecure", "--host", "127.0.0.1"]
    superlink += ["--port", str(api), "--database", str(home / "state.db")]
    if kind == "simulation":
        superlink.append("--simulation")
    run = [str(BIN / "flwr"), "run", str(ROOT), "here"]
    run += ["--run-config", f'scenario="{scenario}" out="{out}" nodes={DEVICES} wait-s=900.0']
    if kind == "simulation":
        settings = f"num-supernodes={DEVICES} client-resources-num-cpus=1"
        run += ["--federation-config", settings]
    with ExitStack() as running:
        running.enter_context(_process(superlink, env, home / "superlink.log"))
        _wait_for(api)
        for device, port in enumerate(nodes if kind == "deployment" else []):
            node = [str(BIN / "flower-supernode"), "--insecure", "--host", "127.0.0.1"]
            node += ["--port", str(port), "--superlink", f"127.0.0.1:{api}"]
            node += ["--node-config", f"partition-id={device} num-partitions={DEVICES}"]
            running.enter_context(_process(node, env, home / f"supernode-{device}.log"))
        done = subprocess.run(  # noqa: S603
            run, cwd=ROOT, env=env, timeout=LIMIT_S, capture_output=True, text=True
        )
        (home / "run.log").write_text(done.stdout + done.stderr)
        due = time.monotonic() + LIMIT_S
        while not (out / "rounds.csv").exists():  # written last
            if done.returncode != 0 or time.monotonic() > due:
                for log in sorted(home.glob("*.log")):
                    print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
                raise SystemExit(f"failed: the {kind} wrote no weights")
            time.sleep(0.5)


def _wait_for(port: int) -> None:
    due = time.monotonic() + 120.0
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            if time.monotonic() > due:
                raise SystemExit("failed: the SuperLink does not listen") from None
            time.sleep(0.2)


@dataclass(frozen=True)
class Timing:
    """How long one runtime took, and how far its weights are from FleetGrid's (none of its own)."""

    runtime: str
    wall_s: float
    difference: float | None = None


def table(timings: Sequence[Timing], rounds: int) -> str:
    """Return one line per runtime as a Markdown table."""
    headings = ["runtime", "nodes", "rounds", "seconds"]
    headings += ["largest difference of a weight from FleetGrid's"]
    rows = []
    for each in timings:
        difference = "" if each.difference is None else f"{each.difference:g}"
        rows.append([each.runtime, str(DEVICES), str(rounds), f"{each.wall_s:.1f}", difference])
    return markdown_table(headings, rows)


def measure(kinds: Sequence[str], rounds: int, folder: Path) -> list[Timing]:
    """Train on FleetGrid, then on each runtime, and compare the weights."""
    scenario = folder / "loopback.yaml"
    tree = {**SCENARIO, "training": {**SCENARIO["training"], "rounds": rounds}}
    scenario.write_text(yaml.safe_dump(tree, sort_keys=False))
    began = time.perf_counter()
    reference = weights_on_fleet_grid(RunConfig(str(scenario)), folder / "grid")
    timings = [Timing("FleetGrid, in one process", time.perf_counter() - began)]
    for kind in kinds:
        home, out = folder / f"{kind}-home", folder / kind
        home.mkdir()
        began = time.perf_counter()
        run_on_flower(kind, scenario, out, home)
        wall_s = time.perf_counter() - began
        weights = load_file(out / "weights.safetensors")
        timings.append(Timing(RUNTIMES[kind], wall_s, largest_difference(weights, reference)))
    return timings


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=list(RUNTIMES))
    parser.add_argument("--rounds", type=int, default=2, help="of training (default: 2)")
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks and print the table; return 1 where a weight differs."""
    options = parse(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays behind
    kinds = [options.only] if options.only else list(RUNTIMES)

    def measured() -> tuple[str, bool]:
        with tempfile.TemporaryDirectory(prefix="flower-") as folder:
            timings = measure(kinds, options.rounds, Path(folder))
        return table(timings, options.rounds), all(not each.difference for each in timings)

    return measured_into(options.document, BLOCK, measured, [Path(__file__)])


if __name__ == "__main__":
    sys.exit(main())
