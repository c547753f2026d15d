"""The faults of the campaign: injection, expected behaviour and observed behaviour."""

import json
import time
from dataclasses import replace

import pyarrow.parquet as pq
import yaml

from faults.campaign import INLINE, SHORTEST_RUN_S, Campaign, Case, Outcome
from faults.devices import BAD_DEVICES
from faults.kills import driver_killed, hosts_killed, ray_killed
from faults.runs import OutOfTimeError
from faults.storage import checkpoint_damaged, disk_full, read_only


def uninterrupted(campaign: Campaign, repeats: int) -> Outcome:
    """Run the reference that all other runs must equal."""
    folder, inline = campaign.new_folder(), campaign.new_folder()
    ended = campaign.run(folder)
    campaign.refer_to(folder)
    campaign.run_s = max(ended.wall_s, SHORTEST_RUN_S)
    other = campaign.run(inline, INLINE)
    return campaign.outcome(
        "none; on two hosts, and in one process",
        1,
        "complete, equal",
        f"exit codes {ended.exit_code} and {other.exit_code}",
        ended.exit_code == other.exit_code == 0,
        campaign.equal(inline),
        [ended, other],
    )


def bad_devices(campaign: Campaign, repeats: int) -> Outcome:
    """Make some devices crash, and others send NaN, wrong shapes and oversized messages."""
    folder = campaign.new_folder()
    everyone = ("--set", "training.cohort_size=8", "--set", "fleet.availability=always")
    ended = campaign.run(folder, (*INLINE, *everyone), module="faults.devices")
    arms = json.loads((folder / "results.json").read_text(encoding="utf-8"))["arms"]
    rounds = yaml.safe_load(campaign.scenario.read_text(encoding="utf-8"))["training"]["rounds"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    named = [item for item in BAD_DEVICES if item.said]
    in_report = all(
        any(f"device {item.device}: " in error and item.said in error for error in arm["errors"])
        and f"device {item.device}: " in page
        for item in named
        for arm in arms
    )
    failed = sum(arm["training"]["failed"] for arm in arms)
    expected = sum(item.spoils_training for item in BAD_DEVICES) * rounds * len(arms)
    silent = {item.device for item in BAD_DEVICES if item.spoils_serving}
    requests = pq.read_table(folder / "requests.parquet").to_pylist()
    theirs = [row["status"] for row in requests if row["device"] in silent]
    others = [row["status"] for row in requests if row["device"] not in silent]
    return campaign.outcome(
        f"bad devices: {'; '.join(item.kind for item in BAD_DEVICES)}",
        len(BAD_DEVICES),
        "each rejected and counted as failed, every round; crashes named in the report; complete",
        f"exit code {ended.exit_code}; {failed} of {expected} device-rounds and "
        f"{theirs.count('failed')} of {len(theirs)} requests failed; the report "
        f"{'names' if in_report else 'DOES NOT NAME'} devices "
        f"{', '.join(str(item.device) for item in named)}",
        ended.exit_code == 0
        and in_report
        and failed == expected
        and set(theirs) == {"failed"}
        and "failed" not in others
        and "answered" in others,
        None,
        [ended],
    )


CASES = {
    "hosts": Case(hosts_killed, 24, 25.0),
    "raylet": Case(ray_killed("raylet"), 5, 25.0),
    "gcs": Case(ray_killed("gcs_server"), 1, 8.0),
    "driver": Case(driver_killed, 10, 30.0),
    "checkpoint": Case(checkpoint_damaged, 2, 12.0),
    "read-only": Case(read_only, 1, 6.0),
    "disk": Case(disk_full, 1, 15.0),
    "devices": Case(bad_devices, 1, 6.0),
}
UNINTERRUPTED = Case(uninterrupted, 1, 2.0)


def inject(name: str, case: Case, campaign: Campaign, repeats: int) -> Outcome:
    """Run one case within its limit; a case that hangs or raises has failed."""
    began = time.monotonic()
    limit_s = case.limit_runs * campaign.run_s
    campaign.deadline = began + limit_s
    try:
        outcome = case.inject(campaign, repeats)
    except (OutOfTimeError, OSError, LookupError, ValueError) as error:
        said = f"{type(error).__name__}: {error}".replace("\n", " ")
        expected = "ends, with all of its files"
        outcome = Outcome(name, repeats, expected, said, False, None, 0, (), 0.0)
    wall_s = time.monotonic() - began
    passed = outcome.passed and wall_s <= limit_s
    return replace(outcome, wall_s=wall_s, limit_s=limit_s, passed=passed)
