"""The summary at the end of a run, on one screen of 100 columns and 40 lines."""

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.pages.cells import Row
from testbed.report.tables.headline import headline_table
from testbed.results import formats as numbers
from testbed.results.figures import FIGURES
from testbed.results.findings import readable
from testbed.results.host_facts import Phase
from testbed.results.reading import Results, read_results
from testbed.results.schema import ArmResult

MAX_ARMS = 4
MAX_PHASES = 6
ROOMY_ARMS = 2
"""Up to this many arms, intervals and ratios fit beside the numbers."""
BAR_WIDTH = 30
_SHOWN = {
    FIGURES[key].label
    for key in (
        *("accuracy", "mse", "reidentification", "chance_reidentification", "macs", "parameters"),
        *("feature_bytes", "latency_ms_median", "latency_ms_p95", "energy_mj"),
    )
}


def print_summary(folder: Path, console: Console | None = None) -> None:
    """Print the summary of a results folder.

    Raises
    ------
    UserError : the folder is missing, corrupt or of another schema version.
    """
    results = read_results(folder)
    (console or Console()).print(summary(results))


def summary(results: Results) -> RenderableType:
    """Return the summary as a rich renderable."""
    facts = results.summary
    head = Text(f"{facts.scenario.name}, seed {facts.scenario.seed}", style="bold")
    if facts.fleet:
        head.append(f"  {numbers.count(facts.fleet.size)} devices", style="not bold")
    if facts.data:
        head.append(f", {facts.data.name}", style="not bold")
    parts: list[RenderableType] = [head]
    if facts.status == "interrupted":
        parts.append(Text("Interrupted: partial results; continue with --resume.", style="yellow"))
    parts += [Text(f"warning: {text}", style="yellow") for text in facts.warnings]
    parts += [_arms(results), *_failed_checks(results), _wall_time(results)]
    report = results.path / "report.html"
    parts.append(
        Text(f"report: {report}" if report.exists() else f"results: {results.path}", style="bold")
    )
    return Group(*parts)


def _arms(results: Results) -> RenderableType:
    table = headline_table(results)
    if table is None:
        return Text("No arm was evaluated.")
    shown = results.arms[:MAX_ARMS]
    roomy = len(shown) <= ROOMY_ARMS
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    drawn.add_column("", no_wrap=True)
    for arm in shown:
        drawn.add_column(Text(arm.name), justify="right")
    for row in table.rows:
        if row.label in _SHOWN or row.kind == "anchor":
            drawn.add_row(Text(row.label, style=_dim(row)), *_cells(row, len(shown), roomy))
        if row.label == FIGURES["accuracy"].label:
            drawn.add_row(Text("best attack"), *(Text(_best(arm, roomy)) for arm in shown))
    for label, names, part in (
        ("stragglers/offline/failed", ("stragglers", "offline", "failed"), "training"),
        ("answered/offline/infeasible", ("answered", "offline", "infeasible"), "serving"),
    ):
        values = [
            " / ".join(numbers.count(getattr(getattr(arm, part), name, None)) for name in names)
            for arm in shown
        ]
        drawn.add_row(Text(label), *map(Text, values))
    if len(results.arms) > MAX_ARMS:
        more = Text(f"and {len(results.arms) - MAX_ARMS} more arms in the report", style="dim")
        return Group(drawn, more)
    return drawn


def _best(arm: ArmResult, with_adversary: bool) -> str:
    best = arm.best
    if best is None:
        return "none"
    name = readable(best.attack)
    return f"{name}, {best.adversary}" if with_adversary else name


def _dim(row: Row) -> str:
    return "dim" if row.kind == "anchor" else ""


def _cells(row: Row, shown: int, with_notes: bool) -> list[Text]:
    texts = []
    for cell in row.cells[:shown]:
        text = Text(cell.text, style=_dim(row))
        if cell.note and with_notes:
            text.append(f"  {cell.note.split(';')[0]}", style="dim")
        texts.append(text)
    return texts


def _failed_checks(results: Results) -> list[RenderableType]:
    checks = results.summary.self_checks
    failed = [check for check in checks if check.passed is False]
    if failed:
        return [
            Text(f"self-check FAILED: {check.name}: {check.detail}", style="bold red")
            for check in failed[:3]
        ]
    return [Text(f"{len(checks)} self-checks passed", style="green")] if checks else []


def _wall_time(results: Results) -> RenderableType:
    host = results.host
    if host is None or host.total_wall_s is None:
        return Text("")
    drawn = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    drawn.add_column("")
    drawn.add_column("", justify="right")
    drawn.add_column("")
    drawn.add_row(Text("wall time", style="bold"), Text(numbers.duration(host.total_wall_s)))
    longest = max((phase.wall_s or 0.0 for phase in host.phases), default=0.0)
    for phase in _largest(host.phases):
        share = (phase.wall_s or 0.0) / longest if longest else 0.0
        bar = Text("━" * max(1, round(BAR_WIDTH * share)), style="cyan")
        drawn.add_row(Text(f"  {phase.name}"), Text(numbers.duration(phase.wall_s)), bar)
    cpu = sum(process.cpu_s or 0.0 for process in host.processes)
    peak = sum(process.peak_rss_mb or 0.0 for process in host.processes)
    if host.processes:
        costs = f"{numbers.duration(cpu)} CPU, {numbers.scaled(peak * 1e6, 'B')} peak memory"
        return Group(drawn, Text(f"  {len(host.processes)} processes: {costs}", style="dim"))
    return drawn


def _largest(phases: list[Phase]) -> list[Phase]:
    """Return the longest phases in their order, and the sum of the others as one."""
    if len(phases) <= MAX_PHASES:
        return phases
    ranked = sorted(phases, key=lambda phase: -(phase.wall_s or 0.0))
    kept = {id(phase) for phase in ranked[: MAX_PHASES - 1]}
    rest = sum(phase.wall_s or 0.0 for phase in phases if id(phase) not in kept)
    return [*(p for p in phases if id(p) in kept), Phase(name="other", wall_s=rest)]
