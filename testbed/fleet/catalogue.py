"""The device catalogue: published devices, one row each, with the source of every number."""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from testbed.fleet.calibration.latency_form import FAMILIES, NetworkCosts
from testbed.fleet.device_classes import DEVICE_CLASSES
from testbed.fleet.table import (
    Count,
    NamedRow,
    NamedRows,
    NotNegative,
    Positive,
    one_of,
    read_table,
    refusal,
)

CATALOGUE_PATH = Path(__file__).with_name("catalogue.csv")
PRECISIONS = ("fp32", "fp16", "int8")
MIB = 2**20
HOW_TO_LIST = "list the devices with: python -m testbed.devices"


class CatalogueDevice(NamedRow):
    """One row of the catalogue; None: unpublished.

    Attributes
    ----------
    name : short name for scenarios, for instance ``raspberry-pi-4``.
    ram_mb : memory of all programs (SRAM on microcontrollers), MiB.
    precision : number format of inference.
    latency_family : constants of the latency form (``testbed.fleet.calibration.latency_form``).
    """

    title: str
    device_class: Annotated[str, one_of(*DEVICE_CLASSES)]
    ram_mb: Annotated[Positive, AfterValidator(lambda mb: round(mb * MIB) / MIB)] | None = None
    precision: Annotated[str, one_of(*PRECISIONS)]
    backend: str
    latency_family: Annotated[str, one_of(*FAMILIES)]
    threads: Count | None = None
    calibration_network: str
    calibration_latency_ms: Positive
    calibration_macs_m: Positive
    calibration_macs_conv3x3s1_m: NotNegative
    calibration_params_m: NotNegative
    calibration_activations_m: Positive
    power_active_w: Positive | None = None
    power_idle_w: Positive | None = None
    source_latency: str
    source_ram: str = ""
    source_power: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        active, idle = self.power_active_w, self.power_idle_w
        if self.calibration_macs_conv3x3s1_m > self.calibration_macs_m:
            raise refusal("calibration_macs_conv3x3s1_m", "must not exceed calibration_macs_m")
        if active is not None and idle is not None and idle > active:
            raise refusal("power_idle_w", "must not exceed power_active_w")
        if self.ram_mb is not None and not self.source_ram:
            raise refusal("source_ram", "must not be empty")
        if (active is not None or idle is not None) and not self.source_power:
            raise refusal("source_power", "must not be empty")
        return self

    @property
    def ram_bytes(self) -> int | None:
        """Return the memory in bytes."""
        return None if self.ram_mb is None else int(self.ram_mb * MIB)

    @cached_property
    def calibration_costs(self) -> NetworkCosts[float]:
        """Return the costs of the calibration network."""
        return NetworkCosts(
            self.calibration_macs_m * 1e6,
            self.calibration_macs_conv3x3s1_m * 1e6,
            self.calibration_params_m * 1e6,
            self.calibration_activations_m * 1e6,
        )


Catalogue = NamedRows[CatalogueDevice]


def load_catalogue(*extra: Path) -> Catalogue:
    """Read the built-in catalogue and the user's; a user's row replaces one of the same name.

    A file is CSV or YAML with the columns of ``CatalogueDevice``.

    Raises
    ------
    UserError : a file cannot be read, or a row is wrong; names the file, row and column.
    """
    tables = [read_table(path, CatalogueDevice) for path in (CATALOGUE_PATH, *extra)]
    return NamedRows("device", itertools.chain(*tables), HOW_TO_LIST)
