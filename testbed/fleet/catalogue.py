"""The device catalogue: published devices, one row each, with the source of every number."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import UserError
from testbed.core.registry import nearest
from testbed.fleet.calibration.latency_form import FAMILIES
from testbed.fleet.table import TableRow, read_table

CATALOGUE_PATH = Path(__file__).with_name("catalogue.csv")
DEVICE_CLASSES = (
    "mcu",
    "mcu-npu",
    "sbc",
    "phone",
    "phone-npu",
    "edge-gpu-board",
    "edge-tpu-board",
    "edge-npu-board",
    "laptop",
    "mini-pc",
    "server-desktop",
)
PRECISIONS = ("fp32", "fp16", "int8")
COLUMNS = (
    "name",
    "title",
    "device_class",
    "ram_mb",
    "precision",
    "backend",
    "latency_family",
    "threads",
    "calibration_network",
    "calibration_latency_ms",
    "calibration_macs_m",
    "calibration_macs_conv3x3s1_m",
    "calibration_params_m",
    "calibration_activations_m",
    "power_active_w",
    "power_idle_w",
    "source_latency",
    "source_ram",
    "source_power",
)
HOW_TO_LIST = "list the devices with: python -m testbed.devices"


@dataclass(frozen=True)
class Calibration:
    """A published latency of a known network, and that network's costs for one input."""

    network: str
    latency_ms: float
    macs: float
    macs_conv3x3s1: float
    params: float
    activation_elements: float


@dataclass(frozen=True)
class CatalogueDevice:
    """One catalogue row; None stands for what nobody has published.

    Attributes
    ----------
    name : short name used in scenarios, for instance ``raspberry-pi-4``.
    ram_bytes : memory that programs share (SRAM on microcontrollers).
    precision : number format of inference: ``fp32``, ``fp16`` or ``int8``.
    latency_family : constants of the latency form (``testbed.fleet.calibration.latency_form``).
    """

    name: str
    title: str
    device_class: str
    ram_bytes: int | None
    precision: str
    backend: str
    latency_family: str
    threads: int | None
    calibration: Calibration
    power_active_w: float | None
    power_idle_w: float | None
    source_latency: str
    source_ram: str
    source_power: str

    @property
    def ram_mb(self) -> float | None:
        """Return the memory in MiB."""
        return None if self.ram_bytes is None else self.ram_bytes / 2**20


class Catalogue:
    """Devices by name, in the order of their rows."""

    def __init__(self, devices: list[CatalogueDevice]) -> None:
        self._devices = {device.name: device for device in devices}

    def __len__(self) -> int:
        """Return the number of devices."""
        return len(self._devices)

    def __iter__(self) -> Iterator[CatalogueDevice]:
        """Iterate over the devices."""
        return iter(self._devices.values())

    def __contains__(self, name: object) -> bool:
        """Say whether a device of that name exists."""
        return name in self._devices

    def names(self) -> list[str]:
        """Return the names, in the order of the rows."""
        return list(self._devices)

    def device(self, name: str, key_path: str = "device") -> CatalogueDevice:
        """Return one device; ``key_path`` says in messages where the name was given.

        Raises
        ------
        UserError : no device of that name.
        """
        if name not in self._devices:
            raise UserError(
                f"{key_path}: unknown device '{name}'{nearest(name, self.names())}; {HOW_TO_LIST}"
            )
        return self._devices[name]


def load_catalogue(*extra: Path) -> Catalogue:
    """Read the built-in catalogue and the user's own; a user's row replaces one of the same name.

    Raises
    ------
    UserError : a file cannot be read, or a row is wrong; names the file, row and column.
    """
    devices: dict[str, CatalogueDevice] = {}
    for path in (CATALOGUE_PATH, *extra):
        for device in read_catalogue(path):
            devices[device.name] = device
    return Catalogue(list(devices.values()))


def read_catalogue(path: Path) -> list[CatalogueDevice]:
    """Read one catalogue file (CSV or YAML with the columns of ``COLUMNS``).

    Raises
    ------
    UserError : the file cannot be read, or a row is wrong; names the file, row and column.
    """
    devices: dict[str, CatalogueDevice] = {}
    for row in read_table(path, COLUMNS):
        device = _parse(row)
        if device.name in devices:
            row.refuse("name", f"'{device.name}' is given twice")
        devices[device.name] = device
    return list(devices.values())


def _parse(row: TableRow) -> CatalogueDevice:
    ram_mb = row.optional_positive("ram_mb")
    threads = row.optional_positive("threads")
    power_active_w = row.optional_positive("power_active_w")
    power_idle_w = row.optional_positive("power_idle_w")
    macs_m = row.positive("calibration_macs_m")
    macs_conv3x3s1_m = row.not_negative("calibration_macs_conv3x3s1_m")
    if threads is not None and threads != int(threads):
        row.refuse("threads", "must be a whole number")
    if macs_conv3x3s1_m > macs_m:
        row.refuse("calibration_macs_conv3x3s1_m", "must not exceed calibration_macs_m")
    if power_active_w is not None and power_idle_w is not None and power_idle_w > power_active_w:
        row.refuse("power_idle_w", "must not exceed power_active_w")
    if ram_mb is not None:
        row.text("source_ram")
    if power_active_w is not None or power_idle_w is not None:
        row.text("source_power")
    return CatalogueDevice(
        name=row.text("name"),
        title=row.text("title"),
        device_class=row.choice("device_class", DEVICE_CLASSES),
        ram_bytes=None if ram_mb is None else round(ram_mb * 2**20),
        precision=row.choice("precision", PRECISIONS),
        backend=row.text("backend"),
        latency_family=row.choice("latency_family", tuple(FAMILIES)),
        threads=None if threads is None else int(threads),
        calibration=Calibration(
            network=row.text("calibration_network"),
            latency_ms=row.positive("calibration_latency_ms"),
            macs=macs_m * 1e6,
            macs_conv3x3s1=macs_conv3x3s1_m * 1e6,
            params=row.not_negative("calibration_params_m") * 1e6,
            activation_elements=row.positive("calibration_activations_m") * 1e6,
        ),
        power_active_w=power_active_w,
        power_idle_w=power_idle_w,
        source_latency=row.text("source_latency"),
        source_ram=row.optional_text("source_ram"),
        source_power=row.optional_text("source_power"),
    )
