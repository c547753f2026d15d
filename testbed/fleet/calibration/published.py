"""Reads published latencies, assigns latency families, and pairs them with calibrations.

The file has one row per measurement. A row of role ``calibrate`` calibrates its device; a row of
role ``validate`` is predicted from the calibration of the same device, backend, precision and
threads, or the nearest one.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field

from testbed.fleet.calibration.latency_form import NetworkCosts
from testbed.fleet.table import NotNegative, Positive, Row, one_of

Floats = NDArray[np.float64]
THREADS_EXPONENT = float(np.log(2.34) / np.log(4.0))
"""Four threads are 2.34 times as fast as one (median over the published CPU rows)."""

GEMM_BACKENDS = ("xnnpack", "tflite", "tf", "cpu_tf", "cpu_tffg", "leip")
GPU_BACKENDS = (
    "vulkan",
    "gpu",
    "tensorrt",
    "tftrt",
    "onnxtrt",
    "coreml",
    "nnapi",
    "opencl",
    "cuda",
)
NPU_BACKENDS = ("npu", "edge tpu", "rknn")


def _whole_number(given: Any) -> int | None:
    digits = str(given).removesuffix(".0")
    return int(digits) if digits.isdigit() and int(digits) > 0 else None


class Measurement(Row):
    """One published latency; other columns of the table are ignored.

    Attributes
    ----------
    threads : None where the table gives no number of at least 1.
    """

    model_config = ConfigDict(extra="ignore")

    device: str = Field(alias="name")
    device_class: str = Field(alias="class")
    network: str = Field(alias="network_name")
    threads: Annotated[int | None, BeforeValidator(_whole_number)] = None
    precision: str
    backend: str
    latency_ms: Positive
    macs_m: Positive | None = None
    macs_conv3x3s1_m: NotNegative = 0.0
    params_m: NotNegative = 0.0
    act_elems_m: Positive | None = None
    role: Annotated[str, one_of("calibrate", "validate")]
    note: str = ""

    @property
    def calibrates(self) -> bool:
        """Return whether the row calibrates its device."""
        return self.role == "calibrate"

    @property
    def costs_known(self) -> bool:
        """Return whether the network's MACs and activations are published."""
        return self.macs_m is not None and self.act_elems_m is not None

    @property
    def family(self) -> str:
        """Return the latency family (see ``testbed.fleet.calibration.latency_form.FAMILIES``)."""
        return latency_family(self.device_class, self.backend, self.precision)


def latency_family(device_class: str, backend: str, precision: str) -> str:
    """Return the latency family of a measurement's class, backend and precision."""
    backend = backend.lower()
    if device_class in ("mcu", "mcu-npu"):
        return "mcu"
    if device_class in ("phone-npu", "fpga-npu") and "cpu" not in backend:
        return "npu"
    if any(word in backend for word in NPU_BACKENDS):
        return "npu"
    int8 = precision.startswith(("int8", "w8a8"))
    if any(word in backend for word in GPU_BACKENDS):
        return "gpu-int8" if int8 else "gpu"
    if device_class == "edge-gpu-board" and backend == "tf":
        return "gpu"  # TensorFlow takes the GPU where there is one
    if backend.startswith(GEMM_BACKENDS):
        return "cpu-gemm"
    return "cpu-int8" if int8 else "cpu"


Costs = NetworkCosts[Floats]


@dataclass(frozen=True)
class Pairs:
    """Measurements to predict, and the calibrations to predict them from, in columns.

    Attributes
    ----------
    wanted, known : the two networks' costs.
    latency_ms, known_ms : the two measured latencies; ``known_ms`` is scaled to the same threads.
    threads : threads of the measurement, 1 where not given.
    int8_ratio : log of int8 against float calibration latency on the same device and backend.
    exact : whether the calibration shares device, backend, precision, threads and note.
    """

    device: NDArray[np.str_]
    network: NDArray[np.str_]
    family: NDArray[np.str_]
    wanted: Costs
    known: Costs
    latency_ms: Floats
    known_ms: Floats
    threads: Floats
    int8_ratio: Floats
    exact: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.latency_ms)

    def select(self, mask: NDArray[np.bool_]) -> "Pairs":
        """Return the pairs that a mask picks."""

        def costs(given: Costs) -> Costs:
            return Costs(**{name: column[mask] for name, column in vars(given).items()})

        columns: dict[str, Any] = {
            name: costs(value) if isinstance(value, NetworkCosts) else value[mask]
            for name, value in vars(self).items()
        }
        return Pairs(**columns)


def pair(measurements: list[Measurement]) -> tuple[Pairs, int]:
    """Pair every measurement to predict with its calibration.

    Returns
    -------
    The pairs, and the number of measurements that cannot be predicted because their network's
    costs are unknown or nothing calibrates their device and backend.
    """
    calibrations: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for row in measurements:
        if row.calibrates and row.costs_known:
            calibrations[row.device, row.backend].append(row)
    paired = []
    to_predict = [row for row in measurements if not row.calibrates]
    for row in to_predict:
        candidates = calibrations.get((row.device, row.backend), [])
        if row.costs_known and candidates:
            paired.append((row, min(candidates, key=partial(_distance, row))))
    ratios = {key: _int8_ratio(rows) for key, rows in calibrations.items()}
    rows = [row for row, _ in paired]
    knowns = [known for _, known in paired]
    return Pairs(
        device=np.array([row.device for row in rows], dtype=np.str_),
        network=np.array([row.network for row in rows], dtype=np.str_),
        family=np.array([row.family for row in rows], dtype=np.str_),
        wanted=_costs(rows),
        known=_costs(knowns),
        latency_ms=_column(row.latency_ms for row in rows),
        known_ms=_column(_known_ms(row, known) for row, known in paired),
        threads=_column(row.threads or 1 for row in rows),
        int8_ratio=_column(
            ratios[row.device, row.backend].get((known.threads, known.note), 0.0)
            for row, known in paired
        ),
        exact=np.array([_distance(row, known)[:4] == (0, 0, 0.0, 0) for row, known in paired]),
    ), len(to_predict) - len(paired)


def _column(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64)


def _costs(rows: list[Measurement]) -> Costs:
    names = ("macs_m", "macs_conv3x3s1_m", "params_m", "act_elems_m")
    return Costs(*(_column(getattr(row, name) for row in rows) * 1e6 for name in names))


def _distance(row: Measurement, known: Measurement) -> tuple[int, int, float, int, float]:
    """Return the sort key of calibrations: same family, precision, threads, note; then speed."""
    return (
        int(known.family != row.family),
        int(known.precision != row.precision),
        abs(float(np.log((row.threads or 1) / (known.threads or 1)))),
        int(known.note != row.note),
        known.latency_ms,
    )


def _known_ms(row: Measurement, known: Measurement) -> float:
    if row.threads is None or known.threads is None or row.family.startswith(("gpu", "npu")):
        return known.latency_ms
    return float(known.latency_ms * (known.threads / row.threads) ** THREADS_EXPONENT)


def _int8_ratio(rows: list[Measurement]) -> dict[tuple[int | None, str], float]:
    """Return log(int8 / float) of the calibration latencies, by threads and note."""
    by_setting: dict[tuple[int | None, str], dict[bool, float]] = defaultdict(dict)
    for row in rows:
        by_setting[row.threads, row.note].setdefault(row.precision == "int8", row.latency_ms)
    return {
        setting: float(np.log(latencies[True] / latencies[False]))
        for setting, latencies in by_setting.items()
        if len(latencies) == 2
    }
