"""Work of a device beside its front-end, against counts by hand."""

import numpy as np
import pytest
import torch
from small import make_spec

from clients import device_spec
from clients.defences import nopeek, siftfunnel_plus
from clients.defences.nopeek import FEW_SAMPLES
from testbed.core import layers
from testbed.core.errors import UserError
from testbed.core.registries import DEFENCES
from testbed.engine.network.costs import DeviceCosts, TierCosts
from testbed.engine.setting.device_work import device_work, optimiser_work
from testbed.engine.setting.models import edge_stats
from testbed.fleet import cost_model
from testbed.fleet.calibration.latency_form import FAMILIES, form_units
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.layer_stats import layer_stats
from testbed.fleet.links import load_links
from testbed.fleet.operation_work import NO_WORK, count_work
from testbed.fleet.sampling import sample_fleet
from testbed.scenario.schema import FleetSection
from testbed.scenario.training import EdgeOptimiserSection
from testbed.wire import protocol

BATCH = 10
PIXELS, FEATURES = 32 * 32, 8 * 16 * 16


def work_of(defence, trains=True, **options):
    edge = make_spec(defence=defence, defence_options=options, batch_size=BATCH).build()
    return device_work(edge, rounds=False, trains=trains)


def test_an_undefended_device_does_nothing_beside_its_front_end():
    assert (work_of("none").release, work_of("none").step) == (NO_WORK, NO_WORK)


def test_operations_of_a_computation_by_hand():
    a, b = torch.ones(3, 4, requires_grad=True), torch.ones(4, 5, requires_grad=True)

    def run():
        loss = (a @ b).sum()
        torch.autograd.grad(loss, [a, b])

    work = count_work("test", run)
    assert work.macs == 3 * 3 * 4 * 5  # the product, and the gradient of either factor
    moved = 12 + 20 + 15  # both factors and the product
    assert work.activation_elements >= 3 * moved


def test_a_distance_correlation_compares_all_pairs_of_a_batch():
    # Distances of the images and of the features; then the gradient to the features, which stand
    # on both sides of every pair.
    pairs = BATCH * BATCH
    by_hand = pairs * (PIXELS + FEATURES) + 2 * pairs * FEATURES
    assert work_of("nopeek").step.macs == by_hand
    assert work_of("nopeek", trains=False).step == NO_WORK


@pytest.mark.parametrize("front_end", [("cnn", None), ("siftfunnel_cnn", {})])
def test_a_faster_form_of_the_distances_and_of_the_layers_costs_what_the_published_one_does(
    front_end, monkeypatch
):
    many = make_spec(*front_end, defence="siftfunnel", batch_size=FEW_SAMPLES + 1).build()
    found = device_work(many, rounds=False, trains=True)
    monkeypatch.setattr(nopeek, "FEW_SAMPLES", FEW_SAMPLES + 1)
    monkeypatch.setattr(
        device_spec, "channels_last", lambda x: x.contiguous(memory_format=torch.channels_last)
    )
    monkeypatch.setattr(layers, "must_compose", lambda module: True)
    assert device_work(many, rounds=False, trains=True) == found


def test_a_view_costs_the_same_the_first_time_and_later():
    siftfunnel_plus.dct_basis.cache_clear()
    spec = make_spec("siftfunnel_cnn", {}, defence="siftfunnel_plus")
    first = edge_stats(spec)
    assert siftfunnel_plus.dct_basis.cache_info().currsize
    assert edge_stats(spec) == first


def test_an_adversary_costs_one_pass_for_the_penalty_and_one_training_step():
    edge = make_spec(defence="adversarial_decoder", batch_size=BATCH).build()
    stats = layer_stats(edge.defence.adversary, edge.front_end.feature_shape)
    first = next(
        layer for layer in edge.defence.adversary.modules() if isinstance(layer, torch.nn.Conv2d)
    )
    # Penalty: forward, gradient to the features. Own loss: forward, gradients to the weights and to
    # the inputs of all layers but the first.
    of_first = first.weight.numel() * 16 * 16
    work = work_of("adversarial_decoder").step
    assert work.macs == BATCH * (5 * stats.macs - of_first)
    assert work.macs_conv3x3s1 <= work.macs


@pytest.mark.parametrize(
    "defence",
    ["gaussian_noise", "laplace_noise", "feature_dropout", "quantisation", "top_k", "vib"],
)
def test_noise_and_rounding_read_and_write_the_features_in_serving_too(defence):
    released = work_of(defence, trains=False).release
    assert released.activation_elements >= 2 * FEATURES
    assert released.macs == 0


@pytest.mark.parametrize("name", sorted(DEFENCES.names()))
def test_every_defence_can_be_counted(name):
    front_end = ("siftfunnel_cnn", {}) if name.startswith("siftfunnel") else ("cnn", None)
    edge = make_spec(*front_end, defence=name, batch_size=4).build()
    work = device_work(edge, rounds=False, trains=True)
    assert min(vars(work.step).values()) >= 0


def test_an_operation_without_a_formula_is_named():
    with pytest.raises(UserError, match=r"defence 'x': the operations of 'aten\.\w*svd\w*' cannot"):
        count_work("defence 'x'", lambda: torch.linalg.svd(torch.eye(3)))


@pytest.mark.parametrize("leaves", [lambda z: z.numpy(), lambda z: z.tolist(), np.asarray])
def test_a_defence_that_leaves_torch_is_refused(leaves):
    features = torch.ones(3, 4)
    with pytest.raises(UserError, match="defence 'x': the operations of code that leaves torch by"):
        count_work("defence 'x'", lambda: leaves(features))
    labels = torch.arange(3)  # no arithmetic of the features
    assert count_work("defence 'x'", lambda: features[labels.tolist()]).macs == 0


def test_updates_of_weights_by_hand():
    stats = edge_stats(make_spec())
    for optimiser, moved in (
        ({"method": "sgd", "momentum": 0.0, "clip_norm": None}, 3),
        ({"method": "sgd", "momentum": 0.9, "clip_norm": None}, 5),
        ({"method": "adam", "clip_norm": 1.0}, 10),
    ):
        section = EdgeOptimiserSection.model_validate(optimiser)
        work = optimiser_work(section, stats, None)
        assert work.activation_elements == moved * stats.params
    both = optimiser_work(section, stats, stats)
    assert both.activation_elements == (10 + 7) * stats.params  # Adam without clipping
    assert optimiser_work(section, stats, None, 1).activation_elements == 11 * stats.params


def test_a_device_is_charged_for_all_of_it_by_hand():
    mix = [{"device": "raspberry-pi-4", "links": {"wifi": 1.0}}]
    section = FleetSection.model_validate({"size": 1, "mix": mix})
    fleet = sample_fleet(section, 0, load_catalogue(), load_links())
    model, stats = fleet.device(0), edge_stats(make_spec())
    family, per_unit_ms = FAMILIES["cpu"], 1000.0 * cost_model.seconds_per_unit(fleet.device(0))
    noisy, compared = work_of("gaussian_noise"), work_of("nopeek")
    update = optimiser_work(EdgeOptimiserSection(), stats, None)
    luck = cost_model.device_factor(0, 0) * cost_model.network_factor(0, model.name, "cnn")

    def ms(work, message_type, images):
        tier = TierCosts.of(fleet, stats, "cnn", BATCH, 0, work=work, update=update)
        return DeviceCosts(fleet, [tier]).compute_ms(0, message_type, images) / luck

    def units_ms(work):
        return per_unit_ms * form_units(family, work)

    forward = cost_model.inference_ms(model, stats, 6)
    assert ms(noisy, protocol.FORWARD, 6) == pytest.approx(forward + 6 * units_ms(noisy.release))
    one = cost_model.inference_ms(model, stats, 1) + units_ms(noisy.release)
    assert ms(noisy, protocol.INFER, 1) == pytest.approx(one)
    extra = units_ms(compared.step) * 6 / BATCH + units_ms(update)
    assert ms(compared, protocol.BACKWARD, 6) == pytest.approx(2 * forward + extra)
