"""The command lines of the testbed."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter


def parser_of(module: str, description: str | None, epilog: str = "") -> ArgumentParser:
    """Return the parser of ``python -m MODULE``.

    Parameters
    ----------
    description : a docstring; its first line is shown.
    epilog : shown below the options as it is.
    """
    return ArgumentParser(
        prog=f"python -m {module}",
        description=(description or "").partition("\n")[0],
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
    )
