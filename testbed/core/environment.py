"""The surroundings of a run in this process: nothing left or sent, and no interrupt lost."""

import os
import signal
import tempfile
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


def stop_telemetry() -> None:
    """Keep Flower and Ray from phoning home; works only before they are imported."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def no_compiler_cache() -> None:
    """Keep PyTorch from leaving an empty folder for compiled code, of which there is none here.

    ``torch._dynamo`` makes ``torchinductor_USER`` in the temporary folder as soon as something
    imports it; where the variable names a folder that is there, none is made.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())


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
