"""The columns of devices.parquet: one row per device of an arm, without an object per device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.engine.network.costs import DeviceCosts
from testbed.engine.network.grid import FleetGrid
from testbed.engine.network.ledger import PHASES
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.run_context import RunContext
from testbed.engine.training.fleet import TrainedArm
from testbed.results.columns import TABLES, arrow_schema

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Text:
    """A column of text: a few words, and the number of each device's word (N,)."""

    words: Sequence[str]
    number_of: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class DeviceColumns:
    """The columns of one arm's devices; numbers are NaN where they are unknown."""

    texts: Mapping[str, Text]
    numbers: Mapping[str, Numbers]

    def __getitem__(self, name: str) -> Numbers:
        """Return a column of numbers or flags."""
        return self.numbers[name]

    def total(self, name: str, of: NDArray[np.bool_] | None = None) -> Any:
        """Return the sum of a column, added up in the order of the devices.

        Parameters
        ----------
        of : (N,) the devices that count; None: all.
        """
        column = self.numbers[name]
        return sum((column if of is None else column[of]).tolist())

    def table(self) -> pa.Table:
        """Return the columns as they are written; what is not finite becomes null."""
        schema = arrow_schema("devices")
        columns = [self._arrow(column.name, schema) for column in TABLES["devices"]]
        return pa.table(columns, schema=schema)

    def _arrow(self, name: str, schema: pa.Schema) -> pa.Array:
        kind = schema.field(name).type
        if name in self.texts:
            text = self.texts[name]
            numbered = pa.DictionaryArray.from_arrays(pa.array(text.number_of), list(text.words))
            return numbered.cast(kind)
        column = self.numbers[name]
        if column.dtype != np.float64:
            return pa.array(column, type=kind)
        return pa.array(column, type=kind, mask=~np.isfinite(column))


def device_columns(run_context: RunContext, arm: TrainedArm, served: ServedArm) -> DeviceColumns:
    """Return one row per device."""
    inputs, grid, costs = run_context.inputs, arm.grid, arm.grid.costs
    fleet = inputs.fleet
    model_of, models = fleet.model_index, fleet.models
    first = np.zeros(costs.devices, dtype=np.uint8)
    texts = {
        "arm": Text([arm.models.arm], first),
        "device_class": Text([model.device_class for model in models], model_of),
        "tier": Text([tier.device_spec.tier for tier in arm.models.tiers], arm.models.tier_of),
        "model": Text([model.name for model in models], model_of),
        "link": Text([link.name for link in fleet.profiles], fleet.link_index),
    }
    numbers: dict[str, Numbers] = {
        "device": np.arange(costs.devices),
        "uplink_mbit_s": fleet.uplink_mbit_s,
        "downlink_mbit_s": fleet.downlink_mbit_s,
        "rtt_ms": fleet.rtt_ms,
        "ram_mb": _of_models([model.ram_mb for model in models])[model_of],
        "training_images": inputs.data.device_images.lengths,
        "training_feasible": costs.training_feasible,
        "serving_feasible": costs.serving_feasible,
        "edge_inference_ms": costs.inference_ms_of_all(),
    }
    numbers |= grid.ledger.counts
    for (phase, amount), column in grid.ledger.amounts.items():
        whole = amount.endswith("_bytes")
        numbers[f"{phase}_{amount}"] = column.astype(np.int64) if whole else column
    for phase in PHASES:
        numbers[f"{phase}_wake_tail_mj"] = _wake_tail_mj(grid, costs, numbers, phase)
    idle_w = _of_models([model.power_idle_w for model in models])
    numbers["train_idle_mj"] = idle_w[model_of] * numbers["train_round_ms"]
    asked = np.array([row["device"] for row in served.rows], dtype=np.int64)
    correct = np.array([row["correct"] for row in served.rows], dtype=np.bool_)
    numbers["requests"] = np.bincount(asked, minlength=costs.devices)
    numbers["correct"] = np.bincount(asked[correct], minlength=costs.devices)
    return DeviceColumns(texts, numbers)


def _wake_tail_mj(
    grid: FleetGrid, costs: DeviceCosts, numbers: Mapping[str, Numbers], phase: str
) -> Numbers:
    """Return what a radio's wake-ups and tails took of each device's energy in a phase.

    It is what the work does not take; 0 where the radio never sleeps, or nothing was sent.
    """
    energy_mj = numbers[f"{phase}_energy_mj"]
    devices = np.flatnonzero(grid.sleeping_radios() & (energy_mj != 0.0))
    amounts = (numbers[f"{phase}_{name}"] for name in ("compute_ms", *BYTES))
    work_mj = costs.work_mj_of(devices, *(amount[devices] for amount in amounts))
    taken = np.zeros(costs.devices)
    taken[devices] = np.maximum(0.0, energy_mj[devices] - work_mj)
    return taken


BYTES = ("uplink_bytes", "downlink_bytes")


def _of_models(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])
