"""Flower's own simulation engine, with the same apps."""

import os
import tempfile

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="flwr-"))

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from speed.apps import ROUNDS, client_app

PROCESSES = 2


def run(workload: str, devices: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    seconds: list[float] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seconds.extend(ROUNDS[workload](grid, devices, rounds))

    run_simulation(
        app,
        client_app(),
        num_supernodes=devices,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": PROCESSES, "include_dashboard": False},
        },
    )
    return seconds
