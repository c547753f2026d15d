"""Progress on the terminal: the phase, its steps, and the remaining time."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from testbed.core.progress import Display


class RichDisplay(Display):
    """One line per phase; without a terminal, one line per finished phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = TaskID(0)
        self._phase = ""
        self._note = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()

    def begin(self, phase: str, steps: int | None) -> None:
        """Show a new phase."""
        self._phase, self._note = phase, ""
        self._task = self._progress.add_task(phase, total=steps, note="")

    def advance(self, steps: int, note: str) -> None:
        """Add finished steps."""
        self._note = note or self._note
        self._progress.update(self._task, advance=steps, note=self._note)

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self, completed: bool) -> None:
        """Keep a completed phase on the screen; without a terminal, print that it is done."""
        if not completed:
            return
        total = self._progress.tasks[-1].total or 1
        self._progress.update(self._task, total=total, completed=total)
        if self._progress.disable:
            note = f" ({self._note})" if self._note else ""
            self._console.print(f"{self._phase}: done{note}", highlight=False)
