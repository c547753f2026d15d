"""The run of a scenario; ``experiment.py`` shows it on one page."""

import os

# Ray reads these when it is imported, hence before any module of this package. Without the last,
# Ray on Linux replaces 127.0.0.1 by the machine's external address and listens everywhere.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
