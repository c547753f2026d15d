"""Sends every library's log to run.log, so that the terminal shows only the run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NOISY = ("flwr", "ray", "datasets", "matplotlib", "urllib3", "fsspec", "filelock")


class _LogFile(logging.FileHandler):
    """The log file; on a full disk it drops lines instead of printing tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Drop the line."""


class RunLog:
    """Keeps messages in memory until the results folder exists, then writes them to its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._memory = MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.handlers: list[logging.Handler] = [self._memory]
        self.begun = False

    def begin(self) -> None:
        """Open the file in the results folder, which now exists."""
        file = _LogFile(self._path, encoding="utf-8")
        file.setFormatter(logging.Formatter(FORMAT))
        self.begun = True
        self._memory.setTarget(file)
        self._memory.flush()
        self.handlers = [file]
        root = logging.getLogger()
        root.removeHandler(self._memory)
        root.addHandler(file)

    def close(self) -> None:
        """Detach from the logging system and close the file."""
        for handler in self.handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


@contextmanager
def log_to(path: Path) -> Iterator[RunLog]:
    """Route all logging to a run log within this context."""
    log = RunLog(path)
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in NOISY)]
    plotting = logging.getLogger("matplotlib")
    before = [(logger, list(logger.handlers), logger.propagate) for logger in loggers]
    levels = [(logger, logger.level) for logger in (root, plotting)]
    for logger in loggers:
        logger.handlers.clear()
        logger.propagate = True
    root.setLevel(logging.INFO)
    root.addHandler(log.handlers[0])
    plotting.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            yield log
    finally:
        log.close()
        logging.captureWarnings(False)
        for logger, level in levels:
            logger.setLevel(level)
        for logger, handlers, propagate in before:
            # Keep the handlers of libraries that were imported meanwhile.
            logger.handlers[:0] = [item for item in handlers if item not in logger.handlers]
            logger.propagate = logger.propagate and propagate
