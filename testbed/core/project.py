"""The installed project: its version, and the folder that its packages are imported from."""

from pathlib import Path

VERSION = "0.1.0"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
