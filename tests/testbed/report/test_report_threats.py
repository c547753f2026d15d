"""Threat models, error bounds, comparisons, inference and attack cards in the report."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from small import filled, write_results

from testbed.report.cards import cards
from testbed.report.html import render
from testbed.report.image_rows import GAP_PX
from testbed.report.tables.threats import (
    _bound_cell,
    comparison_table,
    inference_table,
    link_table,
    threat_table,
)
from testbed.results.reading import read_results
from testbed.results.schema import ErrorBound

NOTHING = {"mse": 0.0, "noise_free": 0.0, "replays": 1}
ESTIMATED = {
    "mse": 0.002,
    "dfil": 0.0021,
    "dfil_lower": 0.0010,
    "spectrum": 0.005,
    "spectrum_lower": 0.002,
    "cem_relative": 0.7,
    "replays": 1,
}


@pytest.fixture
def results(folder):
    """Return the fixture's results with threat models, an error bound and an inference added."""
    tree = json.loads((folder / "results.json").read_text())
    for arm in tree["arms"]:
        for attack in arm["attacks"]:
            free = attack["attack"] == "substitute"
            attack["threat_model"] = "no queries" if free else "queries without end"
            attack["grants"] = {"queries": not free, "auxiliary_images": 100}
    first, second = tree["arms"]
    first["error_bounds"] = [
        {"tier": "own", "reason": "the error bound is 0: deterministic", "levels": [NOTHING]}
    ]
    second["error_bounds"] = [
        {"tier": "own", "reason": "", "levels": [{"mse": 0.004, "replays": 1}]},
        {"tier": "small", "reason": "", "confidence": 0.999, "levels": [ESTIMATED]},
    ]
    interval = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 40}
    second["attacks"].append(
        {
            "adversary": "eavesdropper",
            "attack": "label_inference",
            "is_anchor": False,
            "rebuilds_images": False,
            "threat_model": "labels",
            "victims": 40,
            # Its images are class means: their error must not make it the best attack.
            "scores": {"mse": {"value": 0.0001}},
            "inferred": {
                "class": interval,
                "majority_class": 0.1,
                "same_person": None,
                "chance_same_person": None,
            },
        }
    )
    apart = {"value": 0.02, "low": 0.01, "high": 0.03, "n": 90}
    unclear = {"value": 0.01, "low": -0.02, "high": 0.03, "n": 90}
    tree["comparisons"] = [
        {
            "arm": second["name"],
            "reference": first["name"],
            "adversary": "eavesdropper",
            "attack": "ridge",
            "reference_attack": "residual_decoder",
            "victims": 90,
            "devices": 30,
            "difference": {"mse": apart, "ssim": unclear, "reidentified": unclear},
        }
    ]
    write_results(folder, tree)
    arm = first["name"]
    samples = folder / "reconstructions" / "samples.npz"
    with np.load(samples) as archive:
        arrays = dict(archive)
    arrays[f"extremes/{arm}/eavesdropper/ridge"] = np.full((6, 1, 32, 32), 7, dtype=np.uint8)
    np.savez(samples, **arrays)
    return read_results(folder)


def test_each_threat_model_shows_its_best_attack_and_the_weakest_error_bound(results):
    table = threat_table(results)
    links, cloud = (
        f"{position}; 100 images of its own"
        for position in (
            "35% of the links",
            "at the cloud, which receives every device's features",
        )
    )
    rows = {(row.label, row.note): row for row in table.rows}
    asking = rows.keys() - {("no queries", links), ("no queries", cloud)}
    assert asking == {
        ("queries without end", links),
        ("queries without end", cloud),
        ("error bound for any attack", ""),
        ("CEM's bound, relative to no release", ""),
    }
    for where, adversary in ((links, "eavesdropper"), (cloud, "curious-cloud")):
        best = rows["queries without end", where].cells
        assert [cell.value for cell in best] == [0.0061, 0.0312]
        assert best[0].note.startswith(f"residual decoder, {adversary}; ")
        assert best[1].note.endswith("victims; error bound 0.0020")
        assert [cell.value for cell in rows["no queries", where].cells] == [0.0361, 0.0588]
    error_bounds = rows["error bound for any attack", ""].cells
    assert [cell.value for cell in error_bounds] == [0.0, 0.002]
    assert "deterministic" in error_bounds[0].note
    assert (
        "lower 99.9 % confidence limit of the spectrum-aware estimate 0.00500"
        in error_bounds[1].note
    )
    assert [cell.value for cell in rows["CEM's bound, relative to no release", ""].cells] == [
        None,
        0.7,
    ]
    assert "no error bound" in rows["CEM's bound, relative to no release", ""].cells[1].note


def test_an_error_bound_that_was_not_computed_is_not_zero(results):
    first = results.arms[0]

    def bounded(**level):
        reason = "" if level else "no error bound computed: too large"
        bound = filled(ErrorBound, {"reason": reason, "levels": [level]})
        return first.model_copy(update={"error_bounds": [ErrorBound.model_validate(bound)]})

    cell = _bound_cell(bounded())
    assert cell.value is None
    assert "no error bound computed" in cell.note
    assert "no feature responds to" in _bound_cell(bounded(mse=0.001, noise_free=0.001)).note


def test_inconclusive_differences_are_marked(results):
    (row,) = comparison_table(results).rows
    assert [cell.value for cell in row.cells[1:3]] == [0.02, 0.01]
    assert "not shown to differ" not in row.cells[1].note
    assert "not shown to differ" in row.cells[2].note


def test_inference_is_shown_with_the_majority_class(results):
    (row,) = inference_table(results).rows
    assert [cell.value for cell in row.cells[:2]] == [0.8, 0.1]


def test_links_are_listed_for_the_best_attack_of_each_arm(results):
    labels = [row.label for row in link_table(results).rows]
    assert labels.count("wifi") == labels.count("lte") == 2
    assert all("label inference" not in label for label in labels)


def paragraphs(results, title):
    """Return the paragraphs of an eavesdropper's card, and the words below its picture."""
    page = render(results, {}).partition("Attack cards")[2].partition("<h4>eavesdropper")[2]
    card = page.partition(f"<strong>{title}</strong>")[2].partition("</div>")[0]
    return re.findall("<p>(.*)</p>", card), re.findall("<small>(.*)</small>", card)


def test_cards_show_threat_cost_and_extremes(results):
    first, second = (arm.name for arm in results.arms)
    eavesdropper = dict(cards(results))["eavesdropper"]
    by_attack = {(card.attack.attack, card.arm): card for card in eavesdropper}
    (threat, cost, *_), (extremes,) = paragraphs(results, f"ridge on {first}")
    assert threat == "Has queries without end."
    assert re.search(r"12\.5.s of CPU time, 310.MB of memory, 18,300 images queried", cost)
    picture = base64.b64decode(by_attack["ridge", first].picture.partition(",")[2])
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (3 * 64 + 2 * GAP_PX, 2 * 64 + GAP_PX)
    assert extremes.startswith("best MSE")
    assert len(by_attack["residual_decoder", first].curve) == 60
    (_, _, inferred), _ = paragraphs(results, f"label inference on {second}")
    assert "class of 80.0" in inferred


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"reached_plateau": True}, "Its decoder trained to its plateau."),
        (
            {"reached_plateau": False, "best_epoch": 60},
            "Its decoder stopped at its limit of 60 epochs, still improving: more training would "
            "do better.",
        ),
        (
            {"reached_plateau": False, "best_epoch": 58},
            "Its decoder stopped at its limit of 60 epochs, before its plateau: more training "
            "may do better.",
        ),
        (
            {
                "reached_plateau": False,
                "best_epoch": 58,
                "by_tier": [
                    {"tier": "own", "reached_plateau": True, "best_epoch": 58},
                    {
                        "tier": "small",
                        "reached_plateau": False,
                        "best_epoch": 1,
                        "training_curve": [{"epoch": 0}, {"epoch": 1}],
                    },
                ],
            },
            "Its decoder stopped at its limit of 1 epoch, still improving: more training would "
            "do better.",
        ),
        ({}, None),
        ({"reached_plateau": None}, None),
    ],
)
def test_cards_state_whether_training_reached_a_plateau(folder, edit, facts, sentence):
    def change(tree):
        for attack in tree["arms"][0]["attacks"]:
            if attack["attack"] == "residual_decoder":
                attack.update(facts)

    edit(change)
    card, _ = paragraphs(read_results(folder), "residual decoder on undefended")
    said = [text for text in card if "plateau" in text or "limit" in text]
    assert said == ([] if sentence is None else [sentence])


def test_the_page_contains_all_tables_and_cards(results):
    page = render(results, {})
    for part in ("table-threats", "table-comparisons", "table-inference", "table-links"):
        assert f'id="{part}"' in page
    assert page.count('<div class="card ') == sum(len(own) for _, own in cards(results))
    assert "<polyline" in page
