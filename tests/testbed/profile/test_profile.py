"""The profile: published sizes, break-even rates, files, wrong arguments."""

import csv
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.fleet.calibration.second_estimate import HostRates
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.links import load_links
from testbed.profile.__main__ import main
from testbed.profile.command import second_estimator
from testbed.profile.costs import DeviceCost, SecondEstimate, crossing, device_costs
from testbed.profile.tables import claim_sentences, savings
from testbed.profile.variants import Variant, all_variants

Captured = pytest.CaptureFixture[str]
VARIANTS = {
    size: [v for v in all_variants((3, size, size), 10) if not v.defended] for size in (32, 64)
}
PUBLISHED = {  # params, MACs in millions at 64 and 32, bytes of z at 64
    "cnn cut 1": (1_920, 7.08, 1.77, 262_144),
    "cnn cut 2": (76_032, 82.58, 20.64, 131_072),
    "cnn cut 3": (371_712, 158.07, 39.52, 65_536),
    "cnn cut 4": (1_552_896, 233.57, 58.39, 32_768),
    "autoencoder_cnn": (592_704, 214.70, 53.67, 65_536),
    "siftfunnel_cnn": (10_354, 10.32, 2.68, 12_288),
    "resnet18": (675_392, 1147.93, 286.98, 524_288),
    "siftfunnel_resnet18": (231_832, 241.79, 60.85, 24_576),
    "vgg16": (260_928, 384.57, 96.14, 131_072),
    "siftfunnel_vgg16": (300_574, 395.17, 98.99, 4_096),
}


def named(name: str, size: int) -> Variant:
    return next(variant for variant in VARIANTS[size] if variant.name == name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    params, macs_64, macs_32, sent_64 = PUBLISHED[name]
    for size, macs, sent in ((64, macs_64, sent_64), (32, macs_32, sent_64 // 4)):
        variant = named(name, size)
        assert variant.edge is not None
        assert variant.edge.params == params
        assert variant.edge.macs / 1e6 == pytest.approx(macs, abs=0.006)
        assert variant.uplink_bytes == sent


def test_the_funnel_does_not_reduce_peak_memory() -> None:
    peaks = {
        variant.edge.peak_activation_elements
        for name in ("cnn cut 1", "cnn cut 4", "siftfunnel_cnn")
        if (variant := named(name, 64)).edge
    }
    assert len(peaks) == 1


def test_almost_20x_holds_only_against_the_autoencoder() -> None:
    for size, ratio in ((64, 20.8), (32, 20.0)):
        found = savings(VARIANTS[size], [])
        against = {s.against: s.macs for s in found if s.variant == "siftfunnel_cnn"}
        assert against["autoencoder_cnn"] == pytest.approx(ratio, abs=0.05)
        first, second, *_ = claim_sentences(found)
        assert "against autoencoder_cnn" in first
        assert "cnn cut 2" in second
        assert "autoencoder" not in second


def test_a_defence_that_adds_work_is_a_separate_variant() -> None:
    variants = all_variants((3, 32, 32), 10)
    plain = {variant.name: variant for variant in variants if not variant.defended}
    for variant in variants:
        if variant.defended:
            base = plain[variant.name.partition(" + ")[0]].edge
            assert base is not None
            assert variant.edge is not None
            assert variant.edge.activation_elements >= base.activation_elements
            assert variant.defences[0] not in plain[variant.name.partition(" + ")[0]].defences
    assert "none" in plain["cnn cut 2"].defences


@given(st.floats(-1e4, 1e4), st.integers(-(10**7), 10**7), st.floats(1e-3, 1e4))
def test_crossings(fixed_ms: float, more_bytes: int, mbit_s: float) -> None:
    """A crossing agrees with the comparison of both times at any rate."""
    difference_ms = fixed_ms + 8.0 * more_bytes / 1000.0 / mbit_s
    found = crossing(fixed_ms, more_bytes)
    if abs(difference_ms) < 1e-6:
        return
    faster = {
        "always": True,
        "never": False,
        "below": mbit_s < (found.mbit_s or 0.0),
        "above": mbit_s > (found.mbit_s or math.inf),
    }
    assert faster[found.when] is (difference_ms < 0.0)


def costs_on(*devices: str, estimate: SecondEstimate | None = None) -> list[DeviceCost]:
    catalogue = load_catalogue()
    chosen = [catalogue.named(name) for name in devices]
    cloud = catalogue.named("cloud-server")
    return device_costs(VARIANTS[64], chosen, load_links().named("wifi"), cloud, estimate)


def test_costs_add_up() -> None:
    for cost in costs_on("nano-33-ble", "raspberry-pi-4", "snapdragon-835"):
        parts = cost.compute_ms + cost.uplink_ms + cost.cloud_ms + cost.downlink_ms
        assert cost.total_ms == pytest.approx(parts)
        if cost.compute_mj is not None and cost.radio_mj is not None:
            assert cost.total_mj == pytest.approx(cost.compute_mj + cost.radio_mj)
        else:
            assert cost.total_mj is None
        if cost.budget_bytes is not None:
            assert cost.feasible is (cost.needed_bytes <= cost.budget_bytes)


def test_both_estimates_and_their_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host needs 3 ms for a front-end, and half its devices' time for the references."""
    monkeypatch.setattr("testbed.profile.command.host_cpu_ms", lambda *_: 3.0)
    monkeypatch.setattr(
        HostRates,
        "second_estimate_ms",
        lambda self, device, ms: None if device.device_class == "mcu" else 2 * ms,
    )
    for cost in costs_on("nano-33-ble", "raspberry-pi-4", estimate=second_estimator((3, 64, 64))):
        if cost.device_class == "mcu" or cost.macs == 0:  # no reference, or nothing on the device
            assert (cost.second_ms, cost.disagreement) == (None, None)
            continue
        assert cost.second_ms == 6.0
        assert cost.disagreement == pytest.approx(6.0 / cost.compute_ms)


def test_the_alternatives() -> None:
    of = {cost.variant: cost for cost in costs_on("raspberry-pi-4")}
    raw, whole = of["raw image to cloud"], of["whole cnn on device"]
    assert (raw.compute_ms, raw.uplink_bytes) == (0.0, 3 * 64 * 64)
    assert (whole.uplink_ms, whole.cloud_ms, whole.downlink_ms) == (0.0, 0.0, 0.0)
    assert whole.radio_mj == 0.0
    assert raw.faster_than_raw is None


def test_break_even_agrees_with_the_totals() -> None:
    """At WiFi's own rate a split is faster than an alternative iff its crossing says so."""
    rate = load_links().named("wifi").uplink_mbit_s
    costs = costs_on("nucleo-h7a3zi", "raspberry-pi-zero-2w", "galaxy-s24-npu")
    total = {(cost.device, cost.variant): cost.total_ms for cost in costs}
    for cost in costs:
        for found, other in (
            (cost.faster_than_raw, "raw image to cloud"),
            (cost.faster_than_whole, "whole cnn on device"),
        ):
            if found is not None:
                says = {
                    "always": True,
                    "never": False,
                    "below": rate < (found.mbit_s or 0.0),
                    "above": rate > (found.mbit_s or math.inf),
                }[found.when]
                assert says is (cost.total_ms < total[cost.device, other])


def test_command(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "profile"
    arguments = ["--image-size", "32", "--channels", "1", "--no-host", "--out", str(folder)]
    arguments += ["--device", "nucleo-l4r5zi", "--variant", "cnn cut 2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "cnn cut 2 over wifi" in printed
    with (folder / "profile.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(folder / "profile.parquet")
    assert len(rows) == table.num_rows > 1000
    assert {row["device"] for row in rows} == {device.name for device in load_catalogue()}
    for name in ("latency_stacks", "break_even", "savings"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image-size", "30"], "--image-size: must be a multiple of 16"),
        (["--channels", "0"], "--channels: must be 1 to 16"),
        (["--classes", "1"], "--classes: must be at least 2"),
        (["--link", "wify"], "--link: unknown link 'wify'"),
        (["--cloud", "clod-server"], "did you mean 'cloud-server'?"),
        (["--device", "nucleo"], "--device: unknown device 'nucleo'"),
        (["--variant", "cnn cut 9", "--image-size", "32"], "--variant: unknown 'cnn cut 9'"),
    ],
)
def test_wrong_arguments(tmp_path: Path, capsys: Captured, arguments: list[str], says: str) -> None:
    assert main([*arguments, "--no-host", "--out", str(tmp_path / "p")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
