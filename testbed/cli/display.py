"""Progress on the terminal, with rich: the phase, its steps, and the time it still needs."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RichDisplay:
    """One line per phase; finished phases stay, without a terminal only finished ones are printed."""

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
        self._task: int | None = None
        self._phase = ""
        self._note = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()

    def begin(self, phase: str, steps: int | None) -> None:
        """Show a new phase."""
        self._phase, self._note = phase, ""
        self._task = self._progress.add_task(phase, total=steps, note="")

    def advance(self, steps: int, note: str) -> None:
        """Move the phase on."""
        self._note = note
        if self._task is not None:
            self._progress.update(self._progress.task_ids[-1], advance=steps, note=note)

    def end(self) -> None:
        """Show that the phase is over."""
        if self._task is None:
            return
        task = self._progress.tasks[-1]
        total = task.total if task.total is not None else 1
        self._progress.update(task.id, total=total, completed=total)
        self._task = None
        if self._progress.disable:
            self._console.print(f"{self._phase}: done {self._note}".rstrip(), highlight=False)
