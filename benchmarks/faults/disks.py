"""A full disk: a small file system if mounting is permitted, otherwise a limit on file size."""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.campaign import Campaign
from faults.runs import Ended

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
PAGE_BYTES = 4096
NO_MOUNT = 99
# Mounts $2 with $1 bytes, puts the results $3 there, runs the rest, and takes the results out: the
# file system is gone with the command.
SCRIPT = f"""
size=$1; place=$2; kept=$3; shift 3
mount -t tmpfs -o "size=$size" tmpfs "$place" || exit {NO_MOUNT}
if [ -d "$kept" ]; then cp -a "$kept" "$place/results" || exit {NO_MOUNT}; fi
"$@"; code=$?
rm -rf "$kept"
if [ -d "$place/results" ]; then cp -a "$place/results" "$kept"; fi
exit $code
"""


@dataclass(frozen=True)
class SmallDisk:
    """A disk without space for a run.

    Attributes
    ----------
    mounts : whether file systems may be mounted here; if not, files are limited in size.
    """

    campaign: Campaign
    mounts: bool

    @property
    def words(self) -> str:
        """What it is, for the table."""
        return "a full file system" if self.mounts else "files limited in size"

    def run(self, folder: Path, room_bytes: int, extra: Sequence[str]) -> Ended:
        """Run with a results folder on a disk with this many free bytes.

        Parameters
        ----------
        folder : its files are on the disk when the run starts; it receives the files of the run.
        """
        if not self.mounts:
            return self.campaign.run(folder, extra, largest_file_bytes=room_bytes)
        place = self.campaign.new_folder()
        place.mkdir()
        size = room_bytes + occupied_bytes(folder)
        command = (*NAMESPACE, "sh", "-c", SCRIPT, "sh", str(size), str(place), str(folder))
        return self.campaign.run(place / "results", extra, within=command)


def occupied_bytes(folder: Path) -> int:
    """Return the bytes of the pages that the files of a folder take."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(math.ceil(size / PAGE_BYTES) for size in sizes) * PAGE_BYTES


def mounts_are_permitted() -> bool:
    """Say whether this process may mount a small file system, in a namespace of its own."""
    if shutil.which(NAMESPACE[0]) is None:
        return False
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place, kept = Path(folder) / "place", Path(folder) / "kept"
        place.mkdir()
        command = [*NAMESPACE, "sh", "-c", SCRIPT, "sh", "65536", str(place), str(kept), "true"]
        try:
            return subprocess.run(command, capture_output=True, timeout=60).returncode == 0  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return False
