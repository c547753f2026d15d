"""What a run tells whoever watches it, and how long each phase took on the host's clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Display(Protocol):
    """Shows phases; the command line implements it with rich."""

    def begin(self, phase: str, steps: int | None) -> None:
        """Show a new phase of so many steps, or of unknown length."""

    def advance(self, steps: int, note: str) -> None:
        """Move the phase on, with a short note such as the latest accuracy."""

    def end(self, completed: bool) -> None:
        """Show that the phase is over: completed, or left by an error."""

    def say(self, text: str) -> None:
        """Show a sentence that whoever runs it should read."""


class Silent:
    """A display that shows nothing."""

    def begin(self, phase: str, steps: int | None) -> None:
        """Ignore the phase."""

    def advance(self, steps: int, note: str) -> None:
        """Ignore the step."""

    def end(self, completed: bool) -> None:
        """Ignore the end."""

    def say(self, text: str) -> None:
        """Ignore the sentence."""


class Progress:
    """Reports phases to a display and keeps their wall time (never part of the results)."""

    def __init__(
        self,
        display: Display | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._display: Display = display or Silent()
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
        KeyboardInterrupt : a stop was requested; the interrupt itself can be lost in a library's
            callback or destructor, where Python ignores exceptions.
        """
        self._display.advance(steps, note)
        if self.stop_requested():
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        """Tell whoever watches something that the run goes on after, such as a damaged file."""
        self._display.say(text)

    @property
    def total_s(self) -> float:
        """Return the wall seconds since the start."""
        return time.perf_counter() - self._started
