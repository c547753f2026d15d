"""The surroundings of a run in this process: no telemetry, and interrupts that are not lost."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


def stop_telemetry() -> None:
    """Keep Flower and Ray from phoning home; works only before they are imported."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and remembers that one came."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self.requested = True
        raise KeyboardInterrupt
