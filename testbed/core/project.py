"""The installed project: its version, and the folder that its packages are imported from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

VERSION = "0.2.0"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("testbed", "clients", "server")


def source_files(*endings: str) -> dict[str, bytes]:
    """Return the project's own files with these endings, by their paths in the project."""
    return {
        path.relative_to(PROJECT_ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for ending in endings
        for path in (PROJECT_ROOT / package).rglob(f"*{ending}")
    }


def source_digest(sources: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of source files by name, in any order."""
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + sources[name] + b"\0")
    return digest.hexdigest()
