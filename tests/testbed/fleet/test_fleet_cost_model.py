"""The cost model: hand-computed values, and properties of every device."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.fleet import cost_model
from testbed.fleet.calibration.latency_form import FAMILIES, form_units
from testbed.fleet.catalogue import CatalogueDevice, load_catalogue
from testbed.fleet.layer_stats import LayerStats
from testbed.scenario.training import EdgeOptimiserSection

CATALOGUE = load_catalogue()
DEVICES = st.sampled_from(list(CATALOGUE))
STATS = LayerStats(
    macs=20_643_840,
    macs_conv3x3s1=20_643_840,
    params=76_032,
    activation_elements=240_640,
    peak_activation_elements=81_920,
    saved_activation_elements=273_408,
    input_elements=3_072,
    output_elements=8_192,
    output_shape=(128, 8, 8),
)


def test_the_calibration_network_gets_its_measured_latency() -> None:
    for device in CATALOGUE:
        known = device.calibration_costs
        stats = replace(
            STATS,
            macs=round(known.macs),
            macs_conv3x3s1=round(known.macs_conv3x3s1),
            params=round(known.params),
            activation_elements=round(known.activation_elements),
        )
        measured_ms = device.calibration_latency_ms
        assert cost_model.inference_ms(device, stats) == pytest.approx(measured_ms, rel=1e-6)


def test_latency_by_hand() -> None:
    device = CATALOGUE.named("raspberry-pi-4")  # mobilenet_v2 in 61.63 ms
    family = FAMILIES["cpu"]
    known_units = (
        313.619e6 + family.macs_per_activation * 14.964e6 + family.macs_per_param * 3.489e6
    )
    units = family.conv3x3_factor * 20_643_840 + family.macs_per_activation * 240_640
    units += family.macs_per_param * 76_032
    by_hand = family.fixed_ms + (61.63 - family.fixed_ms) * units / known_units
    assert cost_model.inference_ms(device, STATS) == pytest.approx(by_hand)


@given(DEVICES, st.integers(0, 10**9), st.integers(0, 10**8))
def test_more_work_is_never_faster(device: CatalogueDevice, macs: int, elements: int) -> None:
    more_macs = replace(STATS, macs=STATS.macs + macs)
    more_traffic = replace(STATS, activation_elements=STATS.activation_elements + elements)
    base = cost_model.inference_ms(device, STATS)
    assert cost_model.inference_ms(device, more_macs) >= base > 0.0
    assert cost_model.inference_ms(device, more_traffic) >= base


@given(DEVICES, st.integers(1, 64))
def test_batches(device: CatalogueDevice, images: int) -> None:
    one, many = (cost_model.inference_ms(device, STATS, n) for n in (1, images))
    assert one <= many <= images * one + 1e-9
    forward, backward = cost_model.training_parts_ms(device, STATS, images)
    assert backward == pytest.approx(2.0 * forward)
    assert forward >= many
    assert cost_model.training_step_ms(device, STATS, images) == forward + backward


def test_the_clouds_step_costs_every_tiers_own_path_by_hand() -> None:
    server = CATALOGUE.named("cloud-server")
    heavy = replace(STATS, macs=3 * STATS.macs, activation_elements=2 * STATS.activation_elements)
    family = FAMILIES[server.latency_family]
    units = 20 * form_units(family, STATS) + 10 * form_units(family, heavy)
    forward_ms = family.overhead_ms(server.calibration_latency_ms)
    forward_ms += 1000.0 * units * cost_model.seconds_per_unit(server)
    by_hand = 3.0 * forward_ms * cost_model.FP32_SLOWDOWN[server.precision]
    both = cost_model.cloud_step_ms(server, [STATS, heavy], {1: 10, 0: 20})
    assert both == pytest.approx(by_hand)
    only = cost_model.training_step_ms(server, STATS, 20)
    assert cost_model.cloud_step_ms(server, [STATS, heavy], {0: 20}) == pytest.approx(only)
    assert cost_model.cloud_step_ms(server, [STATS, heavy], {}) == 0.0


def test_winograd_convolutions_are_cheaper_on_winograd_backends_only() -> None:
    pointwise = replace(STATS, macs_conv3x3s1=0)
    for name, cheaper in (("raspberry-pi-4", True), ("raspberry-pi-2", False)):
        device = CATALOGUE.named(name)
        dense = cost_model.inference_ms(device, STATS)
        assert (dense < cost_model.inference_ms(device, pointwise)) is cheaper


@given(DEVICES, st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_energy_adds_up(device: CatalogueDevice, first_ms: float, second_ms: float) -> None:
    parts = [cost_model.compute_energy_mj(device, ms) for ms in (first_ms, second_ms)]
    whole = cost_model.compute_energy_mj(device, first_ms + second_ms)
    if device.power_active_w is None:
        assert whole is None
        assert parts == [None, None]
    else:
        assert whole == pytest.approx(sum(part for part in parts if part is not None))


def test_energy_by_hand() -> None:
    assert cost_model.compute_energy_mj(CATALOGUE.named("nano-33-ble"), 1000.0) == pytest.approx(
        64.5 - 36.4
    )
    # only the active power is published: the total power of the board
    assert cost_model.compute_energy_mj(CATALOGUE.named("raspberry-pi-5"), 10.0) == pytest.approx(
        127.0
    )


def test_memory_by_hand() -> None:
    mcu, board = CATALOGUE.named("nucleo-l4r5zi"), CATALOGUE.named("raspberry-pi-4")
    assert cost_model.inference_bytes(mcu, STATS) == 76_032 + 81_920
    assert cost_model.inference_bytes(board, STATS) == 4 * (76_032 + 81_920)
    assert cost_model.usable_ram_bytes(mcu) == 640 * 1024 * 3 // 4
    assert cost_model.usable_ram_bytes(board) == 2**29


@pytest.mark.parametrize(
    ("optimiser", "copies"),
    [
        ({"method": "adam"}, 2),
        ({"method": "adam", "momentum": 0.0}, 2),
        ({"method": "sgd", "momentum": 0.9}, 1),
        ({"method": "sgd", "momentum": 0.0}, 0),
        ({"method": "sign"}, 0),
    ],
)
def test_training_memory_by_hand(optimiser: dict[str, object], copies: int) -> None:
    state = EdgeOptimiserSection.model_validate(optimiser).state_copies
    assert state == copies
    # Weights, their gradients, the optimiser's state, and the activations of ten images.
    network = cost_model.TrainedNetwork(STATS, 10, state)
    assert network.bytes == 4 * ((2 + copies) * 76_032 + 10 * 273_408)
    adversary = replace(STATS, params=5_000)
    both = cost_model.TrainedNetwork(STATS, 10, state, adversary)
    # The defence trains its adversary with Adam, whatever the front-end's optimiser is.
    assert both.bytes == network.bytes + 4 * (4 * 5_000 + 10 * 273_408)


def test_adams_second_moment_decides_where_memory_is_short() -> None:
    board = CATALOGUE.named("nucleo-h7a3zi")
    budget = cost_model.usable_ram_bytes(board)
    assert budget is not None
    largest = replace(STATS, params=budget // 4 // 3, saved_activation_elements=0)
    largest = replace(largest, peak_activation_elements=0)
    fits = [
        cost_model.training_feasibility(board, cost_model.TrainedNetwork(largest, 10, copies)).fits
        for copies in (0, 1, 2)
    ]
    assert fits == [True, True, False]


def test_feasibility() -> None:
    def serves(name: str, stats: LayerStats) -> bool:
        return cost_model.serving_feasibility(CATALOGUE.named(name), stats).fits

    def trains(name: str) -> bool:
        network = cost_model.TrainedNetwork(STATS, 10, 1)
        return cost_model.training_feasibility(CATALOGUE.named(name), network).fits

    small = replace(STATS, params=10_354)
    assert serves("nucleo-l4r5zi", STATS)
    assert not serves("nucleo-g0b1re", STATS)  # 144 KB
    assert serves("nucleo-g0b1re", small)
    assert trains("raspberry-pi-zero-2w")
    assert not trains("nucleo-h7a3zi")
    assert not trains("coral-dev-board")  # the Edge TPU executes inference graphs only
    assert not trains("ndp9120")  # a microcontroller of unpublished memory
    assert trains("snapdragon-8-gen-2")  # unpublished memory of a phone counts as sufficient


@given(st.integers(0, 2**40), st.integers(0, 10**5))
def test_factors_are_functions_of_what_they_model(seed: int, device: int) -> None:
    own = cost_model.device_factor(seed, device)
    assert own == cost_model.device_factor(seed, device)
    assert own != cost_model.device_factor(seed, device + 1)
    of_network = cost_model.network_factor(seed, "raspberry-pi-4", "cnn")
    assert of_network == cost_model.network_factor(seed, "raspberry-pi-4", "cnn")
    assert of_network != cost_model.network_factor(seed, "raspberry-pi-4", "siftfunnel_cnn")
    assert of_network != cost_model.network_factor(seed, "raspberry-pi-5", "cnn")


def test_the_factors_together_are_lognormal_with_sigma_0_2() -> None:
    devices = np.log([cost_model.device_factor(1, device) for device in range(4000)])
    models = [f"model-{number}" for number in range(4000)]
    networks = np.log([cost_model.network_factor(1, model, "cnn") for model in models])
    for logs in (devices, networks):
        assert logs.mean() == pytest.approx(0.0, abs=0.01)
        assert logs.std() == pytest.approx(0.2 / 2**0.5, abs=0.005)
    assert (devices + networks).std() == pytest.approx(0.2, abs=0.01)
