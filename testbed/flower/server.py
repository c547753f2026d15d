"""The ServerApp that Flower loads (``testbed.flower.server:app``): trains one scenario's arm.

Devices, links and the cloud are real or Flower's simulation: there are no virtual costs and no
attacks. The training equals that of a run, bit by bit.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.split_federated import RoundRecord, SplitFederated
from testbed.core.files import check_folder_for_output, csv_text, write_text
from testbed.engine.training.checkpoint import write_tensors
from testbed.engine.training.fleet import new_server
from testbed.flower.device_grid import DeviceGrid, find_devices
from testbed.flower.run_config import RunConfig, chosen_arm

_LOG = logging.getLogger("flwr")  # shown by ``flwr run --stream`` and ``flwr log``


def train_on(grid: Grid, config: RunConfig) -> tuple[SplitFederated, list[RoundRecord]]:
    """Train an arm over the nodes of a Grid of Flower's.

    Raises
    ------
    UserError : the configuration is wrong, or nodes are missing.
    """
    chosen = chosen_arm(config)
    scenario = chosen.scenario
    wanted = config.nodes or scenario.fleet.size
    server = new_server(scenario, chosen.new_models())
    nodes = find_devices(grid, scenario.fleet.size, wanted, config.wait_s)
    rounds: list[RoundRecord] = []

    def on_round(record: RoundRecord) -> None:
        rounds.append(record)
        loss = "none" if record.training_loss is None else f"{record.training_loss:.4f}"
        _LOG.info(
            "round %d of %d: loss %s, %d of %d devices",
            record.server_round,
            server.training.rounds,
            loss,
            record.participants,
            record.cohort,
        )

    server.train(DeviceGrid(grid, nodes, config.wait_s), on_round)
    return server, rounds


def write_result(folder: Path, server: SplitFederated, rounds: Sequence[RoundRecord]) -> None:
    """Write ``weights.safetensors`` and ``rounds.csv``, each all or nothing.

    The tensors are named as in a checkpoint of the testbed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"cloud.{name}": value for name, value in server.cloud.state().items()}
    for number, tier in enumerate(server.tiers):
        tensors |= {f"tier.{number}.front_end.{n}": v for n, v in tier.parameters.items()}
        tensors |= {f"tier.{number}.statistics.{n}": v for n, v in tier.statistics.items()}
    write_tensors(folder / "weights.safetensors", tensors, {"rounds": len(rounds)})
    columns = [field.name for field in dataclasses.fields(RoundRecord)]
    write_text(folder / "rounds.csv", csv_text(map(dataclasses.asdict, rounds), columns))


def new_server_app(config: RunConfig | None = None) -> ServerApp:
    """Return a ServerApp for a configuration; None: the one in its ``run_config``."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        chosen = config or RunConfig.of(context.run_config)
        if chosen.out:
            check_folder_for_output(Path(chosen.out), "choose another 'out' in the run-config")
        server, rounds = train_on(grid, chosen)
        if chosen.out:
            write_result(Path(chosen.out), server, rounds)
            _LOG.info("weights and rounds are in %s", Path(chosen.out).resolve())

    return made


app = new_server_app()
