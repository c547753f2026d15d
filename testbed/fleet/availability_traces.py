"""Availability replayed from recorded traces: FedScale's format as JSON.

A file holds a list of traces, or an object of them by name. Each trace is ``{"active": [s, ...],
"inactive": [s, ...], "finish_time": s}``: the device is online from ``active[i]`` until
``inactive[i]``, and the trace repeats every ``finish_time`` seconds. Other keys are ignored.
"""

import json
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from testbed.core import seeds
from testbed.core.errors import UserError
from testbed.core.registries import AVAILABILITIES
from testbed.core.registry import Options
from testbed.fleet.availability import Availability, DropOut, drops_out
from testbed.fleet.table import first_problem, must_be, refusal

MAX_TRACE_BYTES = 500_000_000


Second = Annotated[
    float, Field(ge=0, strict=True, allow_inf_nan=False), must_be("a number of at least 0")
]
Cycle = Annotated[
    float, Field(gt=0, strict=True, allow_inf_nan=False), must_be("a number of seconds above 0")
]


@dataclass(frozen=True)
class Trace:
    """One device's sessions, seconds within a cycle, in order and without overlap."""

    starts_s: tuple[Second, ...] = Field(alias="active")
    ends_s: tuple[Second, ...] = Field(alias="inactive")
    cycle_s: Cycle = Field(alias="finish_time")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        starts, ends = self.starts_s, self.ends_s
        if len(starts) != len(ends):
            raise refusal("inactive", f"has {len(ends)} entries, but 'active' has {len(starts)}")
        previous = 0.0
        for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if start < previous:
                before = f"{start:g} s is before the end of the session before"
                raise refusal(f"active[{position}]", before)
            if end < start:
                raise refusal(f"inactive[{position}]", f"{end:g} s is before its session starts")
            if end > self.cycle_s:
                after = f"{end:g} s is after 'finish_time' ({self.cycle_s:g} s)"
                raise refusal(f"inactive[{position}]", after)
            previous = end
        return self

    def online(self, time_s: float) -> bool:
        """Return whether the device is online; a session includes its start and not its end."""
        within_s = time_s % self.cycle_s
        session = bisect_right(self.starts_s, within_s) - 1
        return session >= 0 and within_s < self.ends_s[session]


_TRACE = TypeAdapter(Trace)


def read_traces(path: Path) -> list[Trace]:
    """Read a file of traces.

    Raises
    ------
    UserError : not such a file; names the file, the trace, the key and the position in it.
    """
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise UserError(f"{path}: larger than {MAX_TRACE_BYTES} bytes, not a trace file")
        # Integers are read as floats: one of 400 digits becomes infinity, which is refused.
        content = json.loads(path.read_bytes(), parse_int=float)
    except OSError as error:
        raise UserError(f"{path}: cannot read the traces ({error.strerror})") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8 ({error})") from None
    if isinstance(content, dict):
        named = list(content.items())
    elif isinstance(content, list):
        named = [(str(number), trace) for number, trace in enumerate(content)]
    else:
        raise UserError(f"{path}: a trace file is a list of traces, or an object of them by name")
    if not named:
        raise UserError(f"{path}: holds no trace")
    return [_parsed(path, name, trace) for name, trace in named]


def _parsed(path: Path, name: str, trace: Any) -> Trace:
    if not isinstance(trace, dict):
        raise UserError(f"{path}, trace '{name}': must be an object, got {trace!r:.40}")
    try:
        return _TRACE.validate_python(trace)
    except ValidationError as error:
        kind, location, reason = first_problem(error)
        key = "".join(f"[{part}]" if isinstance(part, int) else part for part in location)
        if kind == "tuple_type":
            reason = f"must be a list of seconds, got {trace[key]!r:.40}"
        reason = "is missing" if kind == "missing" else reason
        raise UserError(f"{path}, trace '{name}', key '{key}': {reason}") from None


class TraceOptions(Options):
    """Options of ``trace``."""

    path: Annotated[str, Field(min_length=1, description="JSON file of traces")]
    drop_out: DropOut = 0.0


@AVAILABILITIES.register(
    "trace", "Replays recorded sessions (JSON in FedScale's form)", TraceOptions
)
class TraceReplay(Availability):
    """Every device replays one trace, from a time within its cycle that is drawn by seed.

    Traces are assigned evenly. A fleet larger than the file replays each trace several times, from
    different times.
    """

    def __init__(self, options: TraceOptions, fleet_size: int) -> None:
        super().__init__(options, fleet_size)
        self._drop_out = options.drop_out
        self._traces = read_traces(Path(options.path))
        self._assignment: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}

    def online(self, device: int, time_s: float, draw_key: int, seed: int) -> bool:
        """Look the time up in the device's trace; the draw key affects drop-out only."""
        if drops_out(device, draw_key, seed, self._drop_out):
            return False
        trace, offset = self._assigned(device, seed)
        return trace.online(time_s + offset * trace.cycle_s)

    def _assigned(self, device: int, seed: int) -> tuple[Trace, float]:
        if seed not in self._assignment:
            rng = seeds.generator(seed, "availability-traces")
            order = rng.permutation(len(self._traces))
            # the first device of each trace keeps the recorded time of day
            offsets = rng.random(self.fleet_size)
            offsets[: len(order)] = 0.0
            self._assignment[seed] = (order, offsets)
        order, offsets = self._assignment[seed]
        return self._traces[int(order[device % len(order)])], float(offsets[device])
