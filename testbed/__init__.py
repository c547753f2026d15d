"""SiftFunnel fleet testbed: split inference on fleets of different devices, attacked and measured.

Importing the package loads and changes nothing; its names are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from testbed.core import project

if TYPE_CHECKING:
    from testbed.api import RunResult, load_run, run_scenario
    from testbed.sweep.api import SweepResult, run_sweep

__version__ = project.VERSION
__all__ = [
    "RunResult",
    "SweepResult",
    "__version__",
    "load_run",
    "run_scenario",
    "run_sweep",
]
_SWEEPS = ("SweepResult", "run_sweep")


def __getattr__(name: str) -> Any:
    """Load a name of the Python API when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'testbed' has no attribute '{name}'")
    if name in _SWEEPS:
        from testbed.sweep import api as sweeps

        return getattr(sweeps, name)
    from testbed import api

    return getattr(api, name)
