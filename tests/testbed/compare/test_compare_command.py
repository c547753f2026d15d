"""The compare command: grouping, errors, and output files."""

import csv
import json

import pyarrow.parquet as pq
import pytest
import yaml
from html_reader import Page, self_contained
from PIL import Image
from runs_fixture import UNDEFENDED, Arm, standard_arms, write_run
from small import write_results

from testbed.compare.__main__ import main
from testbed.compare.analysis.arms import family_of
from testbed.compare.comparison import compare
from testbed.compare.markdown import TABLES, arms_markdown, attacks_markdown
from testbed.compare.plots import PLOTS
from testbed.core.errors import UserError
from testbed.pages.documents import Block
from testbed.results.figures import COST, LEAKAGE, SCORES, UTILITY, shown_in

BLOCK = Block(TABLES[0][0])
BEGIN, END = BLOCK.begin, BLOCK.end


@pytest.fixture(scope="module")
def made(pristine_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "compare"
    assert main([*map(str, pristine_runs), "--out", str(folder), "--resamples", "300"]) == 0
    return folder


@pytest.fixture
def refused(capsys, tmp_path):
    """Run the command, which must fail with one sentence and write nothing."""

    def run(*arguments):
        out = tmp_path / "refused"
        assert main([*map(str, arguments), "--out", str(out)]) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ")
        assert len(text.splitlines()) == 1
        assert not out.exists()
        return text

    return run


def edit_scenario(run, change):
    path = run / "scenario.resolved.yaml"
    tree = yaml.safe_load(path.read_text())
    change(tree)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def edit_results(run, change):
    tree = json.loads((run / "results.json").read_text())
    change(tree)
    write_results(run, tree)


def test_seeds_of_one_arm_are_one_entry(compared):
    assert compared.labels == [arm.name for arm in standard_arms()]
    assert all(item.arm.seeds == [0, 1, 2] for item in compared.measured)
    assert [item.arm.family for item in compared.measured][1:5] == [
        "gaussian_noise",
        "gaussian_noise",
        "gaussian_noise",
        "nopeek",
    ]


def test_families_are_named_with_the_defence_underneath():
    assert family_of("none") == family_of(None) == "undefended"
    assert family_of({"name": "cem", "base": {"name": "none"}}) == "cem"
    assert family_of({"name": "cem", "base": "gaussian_noise"}) == "cem on gaussian_noise"
    nested = {"name": "quantisation", "base": {"name": "cem", "base": {"name": "nopeek"}}}
    assert family_of(nested) == "quantisation on cem on nopeek"


def test_scenarios_of_other_arms_on_the_same_data_are_merged(tmp_path):
    first = write_run(tmp_path / "a", 0, [UNDEFENDED])
    second = write_run(tmp_path / "b", 0, [Arm("other", "nopeek", accuracy=0.9, mse=0.02)])
    made = compare([first, second], resamples=100)
    assert made.labels == ["undefended", "other"]
    assert made.differences[1].mse.n == 200  # paired, although from another run


def test_different_arms_of_one_name_are_distinguished(tmp_path):
    first = write_run(tmp_path / "a", 0, [UNDEFENDED, Arm("x", "nopeek", {"alpha": 0.1})])
    second = write_run(tmp_path / "b", 0, [Arm("x", "nopeek", {"alpha": 1.0})])
    assert compare([first, second], resamples=100).labels == ["undefended", "x@a", "x@b"]


def test_different_training_makes_separate_arms_and_a_note(runs):
    edit_scenario(runs[1], lambda tree: tree["training"].update(rounds=50))
    made = compare(runs[:2], resamples=100)
    assert len(made.labels) == 2 * len(standard_arms())
    assert any("training.rounds differs" in note for note in made.notes)


def test_warnings_of_runs_are_notes_of_the_comparison(runs):
    edit_results(runs[1], lambda tree: tree.update(warnings=["2 of 60 rows have no class"]))
    (note,) = [note for note in compare(runs[:2], resamples=100).notes if "warn" in note]
    assert f"2 of 60 rows have no class ({runs[1].name})" in note


def test_runs_of_other_classes_are_not_compared(runs):
    edit_results(runs[1], lambda tree: tree["data"].update(label_names=list("abcdefghij")))
    with pytest.raises(UserError, match=r"data\.label_names"):
        compare(runs[:2], resamples=100)


@pytest.mark.usefixtures("without_figures")
def test_one_seed_has_no_seed_interval_and_a_note(runs, tmp_path, capsys):
    out = tmp_path / "one"
    assert main([str(runs[0]), "--out", str(out), "--resamples", "100"]) == 0
    assert "There is only one seed (0)" in capsys.readouterr().out
    tree = json.loads((out / "compare.json").read_text())
    assert tree["resampled"] == ["device"]
    leakage = tree["entries"][0]["leakage"]["dcor_u"]
    assert leakage == {"value": 0.5, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["data"].update(max_images=500), "data.max_images is 400"),
        (lambda t: t["data"]["splits"].update(victims=0.2), "data.splits.victims is 0.16"),
        (lambda t: t["fleet"].update(size=21), "fleet.size is 20"),
        (lambda t: t["fleet"]["mix"][1].update(weight=5.0), "fleet.mix.gap9.weight is 2.0"),
        (lambda t: t["serving"].update(horizon_s=60.0), "serving.horizon_s is 600.0"),
        (
            lambda t: t["adversaries"][1]["attack"].update(capacity="medium"),
            "adversaries.strong.attack.capacity is large",
        ),
        (lambda t: t["adversaries"].pop(), "adversaries.strong is "),
    ],
)
def test_runs_that_differ_are_refused_with_the_key(runs, refused, change, named):
    edit_scenario(runs[1], change)
    text = refused(*runs)
    assert "cannot be compared" in text
    assert named in text


def test_other_images_are_refused(runs, refused):
    edit_results(runs[2], lambda tree: tree["data"].update(image_shape=[3, 32, 32]))
    assert "data.image_shape is [1, 32, 32] in the first and [3, 32, 32]" in refused(*runs)


def test_slightly_different_splits_of_the_same_images_can_be_compared(runs, refused):
    edit_results(runs[1], lambda tree: tree["data"].update(images={"training": 210, "victims": 74}))
    assert len(compare(runs, resamples=100).labels) == len(standard_arms())
    # A test file's spare images: how many there are depends on the seed.
    edit_results(runs[1], lambda tree: tree["data"].update(images={"training": 210, "victims": 60}))
    assert len(compare(runs, resamples=100).labels) == len(standard_arms())
    edit_results(runs[2], lambda tree: tree["data"].update(images={"training": 9, "victims": 9}))
    assert "data.images is 284 in the first and 18 in the second" in refused(*runs)


def test_the_location_of_the_data_does_not_matter(runs):
    edit_scenario(runs[1], lambda tree: tree["data"].update(path="/elsewhere"))
    assert len(compare(runs, resamples=100).labels) == len(standard_arms())


def test_runs_of_one_seed_must_have_served_the_same_requests(tmp_path, refused):
    first = write_run(tmp_path / "a", 0, [UNDEFENDED])
    second = write_run(tmp_path / "b", 5, [Arm("other", "nopeek")])
    edit_results(second, lambda tree: tree["scenario"].update(seed=0))
    assert "their devices' requests differ" in refused(first, second)


def test_a_seed_twice_is_refused(runs, refused):
    text = refused(runs[0], runs[1], runs[0])
    assert "the arm 'undefended' with seed 0" in text
    assert "give each seed of an arm once" in text


def test_missing_damaged_and_foreign_folders_are_refused(runs, refused, tmp_path):
    assert "no such results folder" in refused(tmp_path / "nowhere")
    (runs[0] / "attacks.parquet").write_bytes(b"PAR1 not parquet")
    assert "not a readable parquet file" in refused(*runs)
    (runs[0] / "attacks.parquet").unlink()
    assert "attacks.parquet: missing" in refused(*runs)
    edit_results(runs[1], lambda tree: tree.update(schema_version=1))
    assert "schema_version is 1" in refused(runs[1])
    edit_results(runs[2], lambda tree: tree.update(status="interrupted"))
    assert "was interrupted" in refused(runs[2])


def test_runs_without_attacks_are_refused(runs, refused):
    def strip(tree):
        for arm in tree["arms"]:
            arm["attacks"] = []

    edit_results(runs[0], strip)
    assert "mounted no attack" in refused(runs[0])


def test_rows_announced_by_results_must_exist(runs, refused):
    path = runs[0] / "attacks.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 10), path)
    assert "attacks.parquet: no row of" in refused(*runs)
    pq.write_table(table.drop_columns(["ssim"]), path)
    assert "the column 'ssim' is missing" in refused(*runs)


def test_reference_must_exist(runs, refused, tmp_path):
    assert "did you mean 'noise_1'" in refused(*runs, "--reference", "noise_11")
    alone = write_run(tmp_path / "alone", 0, [Arm("only", "nopeek")])
    assert "no arm is undefended" in refused(alone)


@pytest.mark.parametrize("loss", ["-0.1", "1", "nan"])
def test_impossible_losses_are_refused(runs, refused, loss):
    assert "--max-accuracy-loss" in refused(runs[0], f"--max-accuracy-loss={loss}")


@pytest.mark.usefixtures("without_figures")
def test_nothing_is_overwritten_without_force(runs, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(runs[0]), "--out", str(out), "--resamples", "100"]
    assert main(command) == 0
    before = (out / "compare.json").read_bytes()
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command[:-1], "200", "--force"]) == 0
    assert (out / "compare.json").read_bytes() != before
    assert main([str(runs[0]), "--out", str(runs[1]), "--force"]) == 2
    assert "is the results folder of a run" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert main([str(runs[0]), "--out", str(tmp_path / "other"), "--force"]) == 2
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_page_is_self_contained(made):
    page = self_contained((made / "compare.html").read_text(encoding="utf-8"))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in page.attributes


def test_page_shows_the_numbers(made, compared):
    page = Page((made / "compare.html").read_text(encoding="utf-8"))
    cells = page.row("table-entries", "noise_2")
    assert cells[0][1] == pytest.approx(0.90)
    assert cells[3][1] == pytest.approx(0.030)
    assert page.row("table-matched-0", "gaussian_noise")[1][1] == pytest.approx(0.020)
    assert page.row("table-matched-0", "siftfunnel")[-1][0] == "does not reach this accuracy"
    assert page.row("table-weakest-tiers", "nopeek_1")[0][0] == "small"
    assert page.row("table-fronts", "noise_3")[0][0] == "front"
    for plot in PLOTS:
        assert f"plot-{plot.name}" in page.ids
        with Image.open(made / "plots" / f"{plot.name}.png") as image:
            assert image.width > 900


def test_json_and_csv_agree_with_the_page(made, compared):
    tree = json.loads((made / "compare.json").read_text())
    assert tree["schema_version"] == 2
    assert [entry["label"] for entry in tree["entries"]] == compared.labels
    assert tree["reference"] == "undefended"
    assert tree["pareto"][0]["front"] == ["undefended", "noise_1", "noise_2", "noise_3"]
    lines = (made / "entries.csv").read_text().splitlines()
    assert len(lines) == 1 + len(compared.labels)
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
    assert row["label"] == "undefended"
    assert "/tmp" not in (made / "compare.json").read_text()


def test_every_declared_figure_is_in_every_output(made, compared):
    page = Page((made / "compare.html").read_text(encoding="utf-8"))
    entry = json.loads((made / "compare.json").read_text())["entries"][0]
    (line,) = csv.DictReader((made / "entries.csv").read_text().splitlines()[:2])
    groups = (UTILITY, SCORES, COST, LEAKAGE)
    parts = (entry, entry["best_attack"], entry["cost"], entry["leakage"])
    tables = ("entries", "entries", "cost", "leakage")
    for group, part, table in zip(groups, parts, tables, strict=True):
        headings = [text for text, _ in page.tables[f"table-{table}"][0]]
        for figure in shown_in("compare", group):
            value = compared.measured[0][figure.key].shown.value
            assert headings.count(figure.label) == 1
            assert part[figure.key]["value"] == value
            assert line[figure.key] == ("" if value is None else str(value))
    text = arms_markdown(compared, "x") + attacks_markdown(compared, "x")
    assert all(f"| {figure.label} |" in text for figure in shown_in("markdown", *groups))
    assert all(f"undefended: {score.label} |" in text for score in shown_in("ladder", SCORES))


def test_same_runs_give_the_same_bytes(made, pristine_runs, tmp_path):
    def content(out):
        return {
            str(path.relative_to(out)): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }

    again = tmp_path / "again"
    assert main([*map(str, pristine_runs), "--out", str(again), "--resamples", "300"]) == 0
    assert content(again) == content(made)  # also: no temporary file is left behind


@pytest.mark.usefixtures("without_figures")
def test_json_is_printed(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(runs[0]), "--out", str(out), "--resamples", "100", "--json"]) == 0
    assert capsys.readouterr().out == (out / "compare.json").read_text()


@pytest.mark.usefixtures("without_figures")
def test_markdown_is_written_into_its_block(runs, tmp_path, capsys):
    document = tmp_path / "defences.md"
    document.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    command = [str(runs[0]), "--resamples", "100", "--markdown", str(document), "--force"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    text = document.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}\n\nMade by `python -m testbed.compare")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in text
    assert str(tmp_path) not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(standard_arms())
    assert len({line.count("|") for line in rows}) == 1
    assert "60 of 64" in text
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert document.read_text() == text
    document.write_text("no marks\n")
    assert main([*command, "--out", str(tmp_path / "again")]) == 2
    assert not (tmp_path / "again").exists()
    assert BEGIN in capsys.readouterr().err
    assert document.read_text() == "no marks\n"


@pytest.mark.usefixtures("without_figures")
def test_texts_are_escaped(tmp_path):
    poison = '"><script>alert(1)</script>'
    run = write_run(tmp_path / "run", 0, [UNDEFENDED, Arm("x", "nopeek")])

    def spread(tree):
        tree["data"]["name"] = poison
        for arm in tree["arms"]:
            arm["front_end"] = poison
            arm["attacks"][1]["threat_model"] = poison

    edit_results(run, spread)
    edit_scenario(run, lambda tree: tree["arms"][1]["defence"].update(name=poison))
    out = tmp_path / "out"
    assert main([str(run), "--out", str(out), "--resamples", "100"]) == 0
    page = Page((out / "compare.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(poison) > 3


@pytest.mark.usefixtures("without_figures")
def test_attack_that_fails_is_called_failed(tmp_path):
    arms = [UNDEFENDED, Arm("hidden", "nopeek", accuracy=0.93, mse=0.2)]
    out = tmp_path / "out"
    run = write_run(tmp_path / "run", 0, arms)
    assert main([str(run), "--out", str(out), "--resamples", "100"]) == 0
    page = Page((out / "compare.html").read_text(encoding="utf-8"))
    assert "failed: worse than the mean image" in page.text
    entries = json.loads((out / "compare.json").read_text())["entries"]
    assert [entry["best_attack"]["worse_than_mean_image"] for entry in entries] == [False, True]
