"""Faults of storage: damaged checkpoints, read-only folders, full disks."""

import shutil
import signal
from collections.abc import Callable

from faults.campaign import INLINE, Campaign, Outcome, rounds_done, short
from faults.disks import SmallDisk, mounts_are_permitted
from faults.runs import Ended, everything_in, half_written

ROOM_FOR_ONE_CHECKPOINT = 1.5  # of its size
ROOM_AT_RESULTS, ROOM_AT_REPORT = 16_384, 262_144  # bytes: less than samples.npz, than report.html
WRITTEN_LAST = ("results.json", "report.html", "reconstructions/samples.npz")


def checkpoint_damaged(campaign: Campaign, repeats: int) -> Outcome:
    """Stop the run, damage its newest checkpoint in one of two ways, and resume."""
    damages: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("cut off", lambda content: content[: campaign.dice.randrange(len(content))]),
        ("a byte changed", lambda content: _other_byte(campaign, content)),
    ]
    ended: list[Ended] = []
    equal, said, done = True, 0, []
    for number in range(repeats):
        name, damage = damages[number % len(damages)]
        folder = campaign.new_folder()
        watched = campaign.start(folder, INLINE)
        watched.wait_until(lambda folder=folder: rounds_done(folder) >= 2)
        watched.send(signal.SIGTERM)
        ended.append(watched.end())
        newest = max(folder.glob("checkpoints/*/round-*"), key=lambda path: path.stat().st_mtime)
        newest.write_bytes(damage(newest.read_bytes()))
        ended.append(campaign.run(folder, ("--resume", *INLINE)))
        said += f"{newest.name} is damaged; falling back" in ended[-1].errors
        equal = equal and campaign.equal(folder)
        done.append(name)
    codes = [sorted({item.exit_code for item in ended[part::2]}) for part in (0, 1)]
    return campaign.outcome(
        f"SIGTERM, then the newest checkpoint damaged ({', '.join(dict.fromkeys(done))})",
        repeats,
        "exit code 130; --resume says so, falls back on the one before and completes",
        f"exit codes {codes[0]} and {codes[1]}, damage named {said} times",
        said == repeats and codes == [[130], [0]],
        equal,
        ended,
    )


def _other_byte(campaign: Campaign, content: bytes) -> bytes:
    changed = bytearray(content)
    place = campaign.dice.randrange(len(changed) // 2, len(changed))  # among the weights
    changed[place] ^= 1 << campaign.dice.randrange(8)
    return bytes(changed)


def read_only(campaign: Campaign, repeats: int) -> Outcome:
    """Write into a read-only folder, and over read-only results."""
    closed = campaign.new_folder()
    closed.mkdir()
    new, old = closed / "new", closed / "old"
    shutil.copytree(campaign.reference, old)
    before = everything_in(closed)
    for folder in (old, closed):
        folder.chmod(0o555)
    ended = [
        campaign.run(new, INLINE, obeys_permissions=True),
        campaign.run(old, ("--force", *INLINE), obeys_permissions=True),
    ]
    for folder in (closed, old):
        folder.chmod(0o755)
    untouched = everything_in(closed) == before
    return campaign.outcome(
        "read-only output; read-only results with --force",
        len(ended),
        "exit code 2 and one sentence; nothing written, nothing removed",
        f"exit codes {', '.join(str(item.exit_code) for item in ended)}: "
        f"“{_without(campaign, ended[0].last_words)}”; "
        f"files {'as before' if untouched else 'CHANGED'}",
        all(item.exit_code == 2 and item.is_one_sentence for item in ended) and untouched,
        None,
        ended,
    )


def disk_full(campaign: Campaign, repeats: int) -> Outcome:
    """Fill the disk at a checkpoint, at the results, and at the report."""
    disk = SmallDisk(campaign, mounts_are_permitted())
    folder = campaign.new_folder()
    newest = max(campaign.reference.glob("checkpoints/*/round-*"), key=lambda path: path.name)
    size = newest.stat().st_size
    room = round(size * ROOM_FOR_ONE_CHECKPOINT) if disk.mounts else size // 2
    stopped = [disk.run(folder, room, INLINE)]
    halves = half_written(folder)
    resumed = [campaign.run(folder, ("--resume", *INLINE))]
    equal = campaign.equal(folder)
    for name in WRITTEN_LAST:  # as if the run had stopped just before writing them
        (folder / name).unlink(missing_ok=True)
    for room in (ROOM_AT_RESULTS, ROOM_AT_REPORT):
        stopped.append(disk.run(folder, room, ("--resume", *INLINE)))
        halves += half_written(folder)
    resumed.append(campaign.run(folder, ("--resume", *INLINE)))
    words = _without(campaign, stopped[0].last_words)
    return campaign.outcome(
        f"disk full ({disk.words}): at a checkpoint, at the results, at the report",
        len(stopped),
        "stops with one sentence, no half file; --resume completes",
        f"exit codes {', '.join(str(item.exit_code) for item in stopped)}, "
        f"{len(halves)} half files: “{words}”",
        all(item.exit_code in (1, 2) and item.is_one_sentence for item in stopped)
        and not halves
        and all(item.exit_code == 0 for item in resumed),
        equal and campaign.equal(folder),
        [*stopped, *resumed],
    )


def _without(campaign: Campaign, text: str) -> str:
    """Return a sentence without the working folder of the campaign."""
    return short(text.replace(f"{campaign.folder}/", ""))
