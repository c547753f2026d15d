"""Command line: ``python -m testbed.export RUN --tensorboard DIR`` or ``--mlflow URI``."""

import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import UserError, command

EPILOG = """\
examples:
  python -m testbed.export results/100_devices --tensorboard results/logs
  python -m testbed.export results/seed-0 results/seed-1 --mlflow sqlite:///mlflow.db
"""


@command
def main(arguments: list[str] | None = None) -> int:
    """Export; return 0, or 2 with one sentence on standard error for bad input."""
    summary = "Export finished runs to TensorBoard or MLflow."
    parser = parser_of("testbed.export", summary, EPILOG)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a results folder")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="folder for the logs")
    parser.add_argument("--mlflow", metavar="URI", help="tracking server or store")
    chosen = parser.parse_args(arguments)
    if chosen.tensorboard is None and chosen.mlflow is None:
        raise UserError("give --tensorboard DIR or --mlflow URI")
    from testbed.export.content import read_run
    from testbed.export.to_mlflow import export_to_mlflow
    from testbed.export.to_tensorboard import export_to_tensorboard

    for run in [read_run(folder) for folder in chosen.runs]:
        if chosen.tensorboard is not None:
            for log in export_to_tensorboard(run, chosen.tensorboard):
                print(log)
        if chosen.mlflow is not None:
            for identifier in export_to_mlflow(run, chosen.mlflow):
                print(f"{chosen.mlflow} run {identifier}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
