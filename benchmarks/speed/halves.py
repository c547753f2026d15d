"""The two processes of a limit: each simulates half of the devices."""

from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

PROCESSES = 2


class Halves:
    """Processes that each run ``work(connection, devices, *given)`` until they receive None.

    Parameters
    ----------
    context : of torch, where the processes share tensors.
    """

    def __init__(
        self, context: SpawnContext, work: Callable[..., None], devices: int, *given: Any
    ) -> None:
        self._pipes: list[Connection] = []
        self._workers: list[BaseProcess] = []
        for index in range(PROCESSES):
            here, there = context.Pipe()
            share = range(index * devices // PROCESSES, (index + 1) * devices // PROCESSES)
            worker = context.Process(target=work, args=(there, share, *given), daemon=True)
            worker.start()
            self._pipes.append(here)
            self._workers.append(worker)

    def send(self, content: object) -> None:
        """Send the same to both."""
        for pipe in self._pipes:
            pipe.send(content)

    def receive(self) -> Sequence[Any]:
        """Wait for one answer of each."""
        return [pipe.recv() for pipe in self._pipes]

    def end(self) -> None:
        """Tell both to end, and wait for it."""
        self.send(None)
        for worker in self._workers:
            worker.join()
