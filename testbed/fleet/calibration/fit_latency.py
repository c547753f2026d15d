"""Fits the latency form and the residuals of well-known networks to published measurements.

Prints the constants for ``testbed.fleet.calibration.latency_form`` and writes
``network_residuals.csv``::

    python -m testbed.fleet.calibration.fit_latency measured_latencies.csv
"""

import argparse
import sys
from pathlib import Path

from testbed.core.errors import command
from testbed.fleet.calibration.latency_fit import FITTED, fit_families, form_ms
from testbed.fleet.calibration.latency_form import FAMILIES
from testbed.fleet.calibration.published import pair, read_measurements
from testbed.fleet.calibration.residuals import RESIDUALS_PATH, fit_residuals


@command
def main(arguments: list[str] | None = None) -> int:
    """Fit, print and write; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m testbed.fleet.calibration.fit_latency", description=__doc__.splitlines()[0]
    )
    parser.add_argument("measured", type=Path, help="CSV of published latencies")
    parser.add_argument("--out", type=Path, default=RESIDUALS_PATH, help="residuals to write")
    options = parser.parse_args(arguments)
    pairs, _ = pair(read_measurements(options.measured))
    fitted = fit_families(pairs)
    for name in FITTED:
        constants = ", ".join(f"{value:.3g}" for value in vars(fitted[name]).values())
        print(f"{name}: LatencyFamily({constants})")
    residuals = fit_residuals(pairs, form_ms(pairs, FAMILIES))
    residuals.write(options.out)
    print(f"{options.out}: {len(residuals.coefficients)} networks and families")
    return 0


if __name__ == "__main__":
    sys.exit(main())
