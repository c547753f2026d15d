"""The page: well-formed, self-contained, escaped, repeatable, and equal to results.json."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from html_reader import Page, self_contained
from PIL import Image
from report_fixture import ADVERSARIES, ARMS, CLASSES, digit_images
from small import filled, write_rows

from testbed.privacy.intervals import Interval
from testbed.report.build import build_report
from testbed.report.html import render
from testbed.report.plots.index import PLOTS
from testbed.report.plots.training import training_curves
from testbed.results.figures import ATTACKS, COST, SCORES, UTILITY, Place, shown_in
from testbed.results.findings import arm_figures
from testbed.results.reading import read_results
from testbed.results.schema import AttackOnTier, TierResult

Edit = Callable[[Callable[[dict[str, Any]], None]], None]


@pytest.fixture(scope="module")
def built(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    folder = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("built") / "fixture"))
    assert build_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page((built / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tree(built: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((built / "results.json").read_text())
    return loaded


def test_page_is_self_contained(built: Path) -> None:
    self_contained((built / "report.html").read_text(encoding="utf-8"))


def test_every_figure_is_in_the_page_and_beside_it(page: Page, built: Path) -> None:
    for plot in PLOTS:
        assert f"plot-{plot.name}" in page.ids
        assert plot.caption in page.text
        with Image.open(built / "plots" / f"{plot.name}.png") as image:
            assert image.width > 900
            assert np.asarray(image.convert("L")).std() > 5


def test_headline_numbers_are_those_of_the_results(page: Page, tree: dict[str, Any]) -> None:
    def best(arm: dict[str, Any]) -> dict[str, Any]:
        found = [a for a in arm["attacks"] if not a["is_anchor"]]
        return min(found, key=lambda a: a["scores"]["mse"]["value"])

    expected = {
        "test accuracy": lambda a: a["accuracy"]["test"]["value"],
        "MSE": lambda a: best(a)["scores"]["mse"]["value"],
        "PSNR (dB)": lambda a: best(a)["scores"]["psnr_db"]["value"],
        "SSIM": lambda a: best(a)["scores"]["ssim"]["value"],
        "re-identified": lambda a: best(a)["scores"]["reidentification"]["value"],
        "chance": lambda a: best(a)["chance_reidentification"],
        "mean image, same victims": lambda _: 0.0702,
        "class mean, same victims": lambda _: 0.0415,
        "edge MACs": lambda a: a["edge"]["macs"],
        "edge parameters": lambda a: a["edge"]["parameters"],
        "features": lambda a: a["edge"]["feature_bytes"],
        "latency, median": lambda a: a["serving"]["latency_ms"]["median"],
        "latency, p95": lambda a: a["serving"]["latency_ms"]["p95"],
        "energy per request": lambda a: a["serving"]["energy_mj_per_request"],
        "took part": lambda a: a["training"]["participations"],
        "stragglers, past the deadline": lambda a: a["training"]["stragglers"],
        "answered": lambda a: a["serving"]["answered"],
        "answered past the deadline": lambda a: a["serving"]["deadline_misses"],
    }
    for label, get in expected.items():
        shown = [value for _, value in page.row("table-headline", label)]
        assert shown == [get(arm) for arm in tree["arms"]], label
    assert [text for text, _ in page.row("table-headline", "edge MACs")] == [
        "19.9\u202fM",
        "2.49\u202fM",
    ]


def test_all_attacks_are_listed_with_their_scores(page: Page, tree: dict[str, Any]) -> None:
    headings, *rows = page.tables["table-attacks"]
    shown = [row for row in rows if len(row) == len(headings)]
    attacks = [attack for arm in tree["arms"] for attack in arm["attacks"]]
    assert len(shown) == len(attacks)
    for row, attack in zip(shown, attacks, strict=True):
        assert row[0][0] == attack["attack"].replace("_", " ")
        scores = attack["scores"]
        declared = [score for score in SCORES if "attacks" in score.places]
        assert [value for _, value in row[1 : 1 + len(declared)]] == [
            scores[score.key]["value"] for score in declared
        ]
        assert [text for text, _ in headings[1 : 1 + len(declared)]] == [
            score.label for score in declared
        ]


def test_every_declared_figure_of_the_headline_is_that_of_the_results(
    page: Page, built: Path
) -> None:
    arms = read_results(built).arms
    for figure in shown_in("headline", UTILITY, ATTACKS, COST):
        values = [figure.of(arm) for arm in arms]
        expected = [value.value if isinstance(value, Interval) else value for value in values]
        if any(value is not None for value in expected):
            assert [value for _, value in page.row("table-headline", figure.label)] == expected
    rows = arm_figures(arms)
    for score in SCORES:
        assert (score.key in rows[0]) == ("index" in score.places)


@pytest.mark.parametrize(("place", "table"), [("classes", "class-0"), ("links", "links")])
def test_tables_of_parts_of_the_victims_show_their_declared_scores(
    page: Page, place: Place, table: str
) -> None:
    headings = [text for text, _ in page.tables[f"table-{table}"][0]]
    for score in SCORES:
        assert (score.label in headings) == (place in score.places)


def test_measures_without_an_attack_are_listed(page: Page, tree: dict[str, Any]) -> None:
    names = ("participation_ratio", "spectral_rank", "dcor_u", "dcor_v", "hsic")
    names += ("mean_abs_feature", "nonzero_per_sample", "samples")
    for arm in tree["arms"]:
        values = [value for _, value in page.row("table-leakage", arm["name"])]
        assert values[1:-1] == [arm["leakage"][name] for name in names]
    assert "table-information" not in page.tables


@pytest.mark.usefixtures("without_figures")
def test_bounds_on_information_stand_beside_their_ceilings(folder: Path, edit: Edit) -> None:
    def add(tree: dict[str, Any]) -> None:
        bound = {"ceiling_nats": None, "held_out": 70, "reason": ""}
        few = {"nats": None, "held_out": 20, "reason": "too few pairs: 80 of 256"}
        tree["arms"][0]["leakage"]["information"] = {
            "pairs": 280,
            "mine": {**bound, "nats": -0.2},
            "infonce": {**bound, "nats": 3.1, "ceiling_nats": 4.158883},
            "mine_bounded": {**bound, "nats": 0.6, "ceiling_nats": 1.0},
        }
        names = ("mine", "mine_bounded", "infonce")
        nothing = {"pairs": 80, **dict.fromkeys(names, few)}
        tree["arms"][1]["leakage"]["information"] = nothing

    edit(add)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    first, second = page.tables["table-information"][1:]
    assert [value for _, value in first[1:]] == [-0.2, 3.1, 0.6, 70, 280]
    assert [value for _, value in second[1:]] == [None, None, None, 20, 80]
    assert "cannot exceed 4.16" in page.text
    assert "too few pairs: 80 of 256" in page.text


def test_an_attack_worse_than_the_mean_image_is_called_failed(page: Page) -> None:
    assert "worse than the mean image: the attack failed, which is not privacy" in page.text


def test_device_classes_and_unknown_energy(page: Page, tree: dict[str, Any]) -> None:
    for index, arm in enumerate(tree["arms"]):
        for entry in arm["by_device_class"]:
            cells = page.row(f"table-class-{index}", entry["device_class"])
            assert cells[0][1] == entry["devices"]
            assert cells[2][1] == entry["latency_ms"]["median"]
            assert cells[3][1] == entry["energy_mj_per_request"]
    assert page.row("table-class-0", "phone-gpu")[3] == ("unknown", None)


def test_costs_of_the_simulation_have_their_own_section(page: Page) -> None:
    assert page.row("table-phases", "attack")[0] == ("31.9\u202fs", 31.9)
    assert page.row("table-processes", "driver")[1] == ("712\u202fMB", 712.0)
    assert page.text.index("Cost of the simulation itself") > page.text.index("Self-checks")


def test_image_rows_show_originals_above_reconstructions(built: Path) -> None:
    for arm in ARMS:
        for adversary in ADVERSARIES:
            name = f"{arm}+{adversary}+residual_decoder.png"
            with Image.open(built / "reconstructions" / name) as strip:
                assert strip.size == (12 * 64 + 11 * 4, 2 * 64 + 4)
    with Image.open(built / "reconstructions" / "undefended+eavesdropper+ridge.png") as strip:
        first = np.asarray(strip)[:64, :64]
    enlarged = np.kron((digit_images(1)[0, 0] * 255).round(), np.ones((2, 2)))
    assert np.array_equal(first, enlarged.astype(np.uint8))


def test_the_same_folder_gives_the_same_bytes(built: Path) -> None:
    def content() -> dict[str, bytes]:
        files = [built / "report.html", *built.glob("plots/*"), *built.glob("reconstructions/*")]
        return {str(path): path.read_bytes() for path in files}

    before = content()
    build_report(built)
    after = content()
    assert before == after  # also: no temporary file is left behind


@pytest.mark.usefixtures("without_figures")
def test_raw_requests_are_counted_and_called_exposed(folder: Path, edit: Edit) -> None:
    def send_raw(tree: dict[str, Any]) -> None:
        for arm, count in zip(tree["arms"], (17, 0), strict=True):
            arm["serving"]["offloaded_raw"] = count
            for entry in arm["by_device_class"]:
                own = entry["device_class"] == "microcontroller"
                entry["offloaded_raw"] = count if own else 0

    edit(send_raw)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    shown = [value for _, value in page.row("table-headline", "sent as raw images, fully exposed")]
    assert shown == [17, 0]
    assert page.tables["table-class-0"][0][-1][0] == "sent raw"
    assert page.row("table-class-0", "microcontroller")[-1][1] == 17
    assert page.row("table-class-0", "phone")[-1][1] == 0
    assert page.tables["table-class-1"][0][-1][0] != "sent raw"
    assert "17 of" in page.text
    assert "are fully exposed" in page.text
    assert "the reconstruction is the image itself" in page.text


@pytest.mark.usefixtures("without_figures")
def test_names_and_texts_are_escaped(folder: Path, edit: Edit) -> None:
    attack = '"><script>alert(1)</script><b>&amp;'

    def poison(tree: dict[str, Any]) -> None:
        tree["scenario"]["name"] = attack
        tree["scenario"]["description"] = attack
        tree["data"]["name"] = tree["data"]["source"] = attack
        tree["fleet"]["device_classes"][0]["device_class"] = attack
        tree["fleet"]["device_classes"][0]["models"] = {attack: 18}
        tree["self_checks"][0]["detail"] = attack
        for arm in tree["arms"]:
            arm["front_end"] = arm["defence"] = attack
            arm["hijack"] = {"adversary": attack, "attack": attack}
            arm["serving"]["cloud"] = {"device": attack, "servers": 1}
            arm["by_device_class"][0]["device_class"] = attack
            for entry in arm["attacks"]:
                entry["threat_model"] = entry["position"] = attack

    edit(poison)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.text.count(attack) > 8
    assert all("alert" not in name for _, name, _ in page.attributes)


@pytest.mark.usefixtures("without_figures")
def test_colour_images_and_their_mse_note(folder: Path, edit: Edit) -> None:
    edit(lambda tree: tree["data"].update(image_shape=[3, 32, 32]))
    path = folder / "reconstructions" / "samples.npz"
    with np.load(path) as archive:
        coloured = {key: np.repeat(archive[key], 3, axis=1) for key in archive.files}
    np.savez_compressed(path, **coloured)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "3 times larger" in page.text
    with Image.open(folder / "reconstructions" / "undefended+eavesdropper+ridge.png") as strip:
        assert strip.mode == "RGB"


@pytest.mark.usefixtures("without_figures")
def test_an_attack_that_re_identifies_more_is_shown(folder: Path, edit: Edit) -> None:
    def swap(tree: dict[str, Any]) -> None:
        ridge = next(a for a in tree["arms"][1]["attacks"] if a["attack"] == "ridge")
        ridge["scores"]["reidentification"]["value"] = 0.77

    edit(swap)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert page.row("table-headline", "another attack re-identifies more")[1][1] == 0.77


def test_single_arm_and_single_adversary(folder: Path, edit: Edit) -> None:
    def keep_one(tree: dict[str, Any]) -> None:
        tree["arms"] = tree["arms"][:1]
        attacks = tree["arms"][0]["attacks"]
        tree["arms"][0]["attacks"] = [a for a in attacks if a["adversary"] == "curious-cloud"]

    edit(keep_one)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "1 arm · 1 adversary" in page.text
    assert all(len(row) <= 2 for row in page.tables["table-headline"])


def test_many_arms_keep_distinct_colours_or_lines() -> None:
    from testbed.pages import style

    looks = {(style.colour(index), style.dash(index)) for index in range(3 * len(style.PALETTE))}
    assert len(looks) == 3 * len(style.PALETTE)


def test_classes_of_the_fixture_are_all_shown(page: Page) -> None:
    assert [row[0][0] for row in page.tables["table-fleet"][1:]] == list(CLASSES)


def test_drawing_library_is_not_loaded_for_the_summary(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from testbed.report.summary import print_summary; "
        f"print_summary(Path({str(folder)!r})); "
        "print(sorted({'matplotlib', 'torch', 'ray', 'flwr', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.usefixtures("without_figures")
def test_provider_epochs_come_first_and_the_deployed_epoch_is_marked(
    folder: Path, edit: Edit
) -> None:
    rows = pq.read_table(folder / "rounds.parquet").to_pylist()
    for row in rows:
        at_provider = row["arm"] == "undefended" and row["round"] <= 7
        row["protocol"] = "provider" if at_provider else "split_federated"
    write_rows(folder, "rounds", rows)
    edit(
        lambda tree: tree["arms"][0]["training"].update(
            protocol="provider", provider={"epochs": 7, "deployed_epoch": 6, "images": 988}
        )
    )
    results = read_results(folder)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert page.row("table-headline", "epoch deployed") == [("6", 6.0), ("–", None)]  # noqa: RUF001
    figure = training_curves(results)
    assert figure is not None
    panel = figure.axes[1]
    assert panel.get_xlabel() == "epoch at the provider (ring: deployed), then round"
    rings = [line for line in panel.lines if line.get_markerfacecolor() == "none"]
    mine = results.rounds.where(arm="undefended")
    assert [list(line.get_xdata()) for line in rings] == [[6.0]]
    assert list(rings[0].get_ydata()) == list(mine["validation_accuracy"][mine["round"] == 6])


def test_rounds_without_a_provider_are_called_rounds(built: Path, page: Page) -> None:
    results = read_results(built)
    assert set(results.rounds["protocol"]) == {"split_federated"}
    assert "Training at the provider" not in page.text
    figure = training_curves(results)
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "round"


def test_a_tier_without_an_attack_is_left_out_of_the_sentence(folder: Path, edit: Edit) -> None:
    """An adversary that reads no device of a tier attacks the others only."""

    def change(tree: dict[str, Any]) -> None:
        arm = tree["arms"][0]
        tier = arm["serving"] | {"front_end": "cnn", "release": {}}
        arm["tiers"] = [
            filled(TierResult, tier | {"tier": name, "device_classes": [name]})
            for name in ("own", "small")
        ]
        best = next(attack for attack in arm["attacks"] if not attack["is_anchor"])
        best["by_tier"] = [filled(AttackOnTier, best["scores"] | {"tier": "small", "victims": 3})]

    edit(change)
    assert "of its 2 tiers small (small) leaks most" in render(read_results(folder), {})


def test_lists_and_texts_that_are_empty_leave_whole_sentences(folder: Path, edit: Edit) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["data"]["image_shape"] = []
        arm = tree["arms"][0]
        arm["serving"]["cloud"]["service_ms"] = {"own": []}
        for attack in arm["attacks"]:
            attack["threat_model"] = ""

    edit(change)
    text = Page(render(read_results(folder), {})).text
    assert "service time: \u2013\u202fms for one;" in text
    assert "Threat model not stated." in text
    assert "Has ." not in text


def test_one_victim_is_in_the_singular(folder: Path, edit: Edit) -> None:
    def change(tree: dict[str, Any]) -> None:
        for arm in tree["arms"]:
            for attack in arm["attacks"]:
                attack["victims"] = 1

    edit(change)
    text = " ".join(Page(render(read_results(folder), {})).text.split())
    assert "; 1 victim." in text
    assert ", 1 intercept." in text


def test_a_failed_attack_without_reidentification_reads_as_one_sentence(
    folder: Path, edit: Edit
) -> None:
    def change(tree: dict[str, Any]) -> None:
        for attack in tree["arms"][0]["attacks"]:
            attack["worse_than_mean_image"] = True
            attack["scores"]["reidentification"] = {}

    edit(change)
    text = Page(render(read_results(folder), {})).text
    assert "; it is worse than the mean image" in text
    assert " ; it is worse" not in text
