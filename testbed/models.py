"""Command line: ``python -m testbed.models`` lists and removes kept provider-trained models."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from testbed.cli.tables import console, table
from testbed.core.arguments import parser_of
from testbed.core.errors import UserError, command
from testbed.engine.training.model_cache import KeptModel, kept_models, leftovers, models_folder


def _parser() -> ArgumentParser:
    summary = "List or remove the provider-trained models that runs share."
    parser = parser_of("testbed.models", summary)
    parser.add_argument(
        "--folder", type=Path, help="default: TESTBED_MODELS_DIR, or models/ in this directory"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--clean", action="store_true", help="remove damaged and incomplete models")
    chosen.add_argument("--remove", action="store_true", help="remove all models")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    folder = options.folder or models_folder()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of models")
    models = kept_models(folder)
    if options.remove:
        _remove([path for model in models for path in model.files] + leftovers(folder))
    elif options.clean:
        damaged = [path for model in models if model.problem for path in model.files]
        _remove(damaged + leftovers(folder))
    else:
        _show(folder, models)
    return 0


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()
    print(f"removed {len(paths)} files")


def _show(folder: Path, models: list[KeptModel]) -> None:
    made = table(
        f"models in {folder}",
        *("model", "images", "seed", "epochs", "deployed", "accuracy", "MB", "<state"),
    )
    made.columns[0].no_wrap, made.columns[0].overflow = False, "fold"
    for model in models:
        made.add_row(
            model.name,
            *(model.figures or ("", "", "", "", "")),
            f"{sum(path.stat().st_size for path in model.files) / 1e6:.1f}",
            model.problem or "sound",
        )
    console().print(made)


if __name__ == "__main__":
    sys.exit(main())
