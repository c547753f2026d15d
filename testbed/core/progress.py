"""Progress of a run: phases shown to the user, and their wall time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Display:
    """Shows nothing; the command line overrides all methods with rich."""

    def begin(self, phase: str, steps: int | None) -> None:
        """Show a new phase of a number of steps, None: unknown."""

    def advance(self, steps: int, note: str) -> None:
        """Move the phase on, with a short note such as the latest accuracy."""

    def end(self, completed: bool) -> None:
        """Show that the phase is over: completed, or left by an error."""

    def say(self, text: str) -> None:
        """Show a sentence to the user."""


class Progress:
    """Reports phases to a display and keeps their wall time (never part of the results)."""

    def __init__(
        self,
        display: Display | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._display = display or Display()
        self.stop_requested = stop_requested
        self.phases: list[tuple[str, float]] = []
        self._started = time.perf_counter()

    @contextmanager
    def phase(self, name: str, steps: int | None = None) -> Iterator[None]:
        """Show and time one phase."""
        self._display.begin(name, steps)
        started = time.perf_counter()
        completed = False
        try:
            yield
            completed = True
        finally:
            self.phases.append((name, time.perf_counter() - started))
            self._display.end(completed)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report progress within the current phase.

        Raises
        ------
        KeyboardInterrupt : a stop was requested. The interrupt itself can get lost in a library's
            callback or destructor, where Python ignores exceptions.
        """
        self._display.advance(steps, note)
        if self.stop_requested():
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        """Show the user how the data were read, or a problem that does not stop the run."""
        self._display.say(text)

    @property
    def total_s(self) -> float:
        """Return the wall seconds since the start."""
        return time.perf_counter() - self._started
