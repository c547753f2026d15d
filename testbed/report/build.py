"""Makes the report of a results folder: plots, rows of images and ``report.html``."""

from pathlib import Path

from testbed.core.files import check_folder_for_output, write_bytes
from testbed.report.html import render
from testbed.report.image_rows import write_image_rows
from testbed.report.plots.index import draw_all
from testbed.results.reading import read_results


def build_report(folder: Path) -> Path:
    """Read ``folder`` and write ``plots/``, ``reconstructions/*.png`` and ``report.html`` in it.

    The same files give the same bytes. Each file is replaced as a whole, the report last.

    Returns
    -------
    Path : ``report.html``.

    Raises
    ------
    UserError : the folder is missing, corrupt or of another schema version, or not writable.
    """
    results = read_results(folder)
    check_folder_for_output(folder, "the report is written beside the results")
    plots = draw_all(results)
    for name, image in plots.items():
        write_bytes(folder / "plots" / f"{name}.png", image)
    write_image_rows(results)
    report = folder / "report.html"
    write_bytes(report, render(results, plots).encode("utf-8"))
    return report
