"""Splits by the names of files: as Hugging Face reads them, and no test file joins the training."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.errors import UserError
from testbed.data.federated import load_federated_data, load_pool
from testbed.data.layout import DEFAULT_CHOICE, SplitChoice, choose_splits, splits_of
from testbed.scenario.schema import DataSection

ROWS = 60


def touch(folder, *names, **texts):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text)
    return folder


def split_names(folder, subset=None):
    return {
        split: [path.relative_to(folder).as_posix() for path in paths]
        for split, paths in splits_of(folder, subset).items()
    }


LAYOUTS = [  # training files, official test set, files left out
    (["train.parquet"], ["test.parquet"], ["validation.parquet"]),
    (["mnist_train.parquet"], ["mnist_test.parquet"], []),
    (["plain_text/train-00000-of-00001.parquet"], ["plain_text/test-00000-of-00001.parquet"], []),
    (["default/train/0000.parquet"], ["default/test/0000.parquet"], ["default/dev/0000.parquet"]),
    (["default/partial-train/0000.parquet"], ["default/test/0000.parquet"], []),
    (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ["data/test-00000-of-00001-0aa209b277f9bf03.parquet"],
        ["data/extra-00000-of-00001.parquet", "notes.parquet"],
    ),
    (["data/training-00000-of-00001.parquet"], ["data/eval-00000-of-00001.parquet"], []),
    (["train.parquet"], ["evaluation.parquet"], ["valid.parquet"]),
    (["train1.parquet", "train2.parquet"], ["testing 1.parquet"], ["my.val.parquet"]),
    (["Train.parquet"], ["TEST.parquet"], ["other.parquet"]),
    (["a.parquet", "b/c.parquet"], [], []),
    (["latest.parquet"], [], []),
]


@pytest.mark.parametrize(("training", "test", "left_out"), LAYOUTS)
def test_layouts_of_the_hub_are_read(tmp_path, training, test, left_out):
    touch(tmp_path, *training, *test, *left_out, ".cache/train.parquet")
    chosen, notes = choose_splits(
        splits_of(tmp_path), DEFAULT_CHOICE, "here", lambda path: path.name
    )
    found = [(path.relative_to(tmp_path).as_posix(), is_test) for path, is_test in chosen]
    assert found == [(name, False) for name in training] + [(name, True) for name in test]
    assert sum("left out" in note for note in notes) == len(
        {re.sub(r".*/", "", n) for n in left_out}
    )
    assert ("no official test set" in notes[1]) == (not test)


WORDS = st.sampled_from(
    ["train", "training", "test", "testing", "eval", "val", "dev", "valid", "mnist", "x", "latest"]
)
PART = st.builds(
    "".join, st.lists(st.one_of(WORDS, st.sampled_from(list("-._ 07"))), min_size=1, max_size=4)
).filter(lambda part: not part.startswith((".", "__")) and part.strip(". ") == part)
FILE = st.builds(
    lambda folders, stem: "/".join([*folders, f"{stem}.parquet"]),
    st.lists(st.one_of(PART, st.just("data")), max_size=2),
    st.one_of(PART, st.builds("{}-00000-of-00001".format, WORDS)),
)


@settings(max_examples=60, deadline=None)
@given(names=st.sets(FILE, min_size=1, max_size=4))
def test_splits_are_those_of_the_library_datasets(names, tmp_path_factory):
    from datasets.data_files import DataFilesDict, get_data_patterns

    folder = tmp_path_factory.mktemp("layout")
    try:
        touch(folder, *names)
    except (FileExistsError, NotADirectoryError):
        return  # one name is the folder of another
    try:
        own = split_names(folder)
    except UserError as error:
        assert re.search("several folders|of the splits|may be a test set", str(error))
        return
    patterns = get_data_patterns(str(folder))
    files = DataFilesDict.from_patterns(patterns, base_path=str(folder))
    aliases = {"training": "train", "eval": "test", "testing": "test"}
    aliases |= dict.fromkeys(("val", "dev", "valid"), "validation")
    expected = {}
    for split, paths in files.items():
        relative = [path.removeprefix(f"{folder}/") for path in paths]
        expected.setdefault(aliases.get(split, split), set()).update(relative)
    own.pop("of no split", None)
    assert {split: set(paths) for split, paths in own.items()} == expected


def test_the_readme_of_a_dataset_declares_its_files(tmp_path):
    touch(
        tmp_path,
        "data.parquet",
        "holdout.parquet",
        "spare.parquet",
        README="---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data.parquet\n  - split: test\n    path: [hold*]\n---\n",
    )
    assert split_names(tmp_path) == {
        "train": ["data.parquet"],
        "test": ["holdout.parquet"],
        "of no split": ["spare.parquet"],
    }


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n{}---\n"


@pytest.mark.parametrize(
    ("data_files", "reason"),
    [
        # the test file would silently become a training file
        ("  - split: test\n    path: part/b*\n", r"name part/b\*, which is no parquet file here"),
        ("  - split: train\n    path: data\n", "name data, which is no parquet file here"),
        ("  - data/a.parquet\n  - split: test\n    path: data/b.parquet\n", "cannot be read"),
        ("  - path: data/a.parquet\n", "cannot be read"),
    ],
)
def test_a_readme_whose_files_are_not_found_is_refused(tmp_path, data_files, reason):
    touch(tmp_path, "data/a.parquet", "data/b.parquet", README=CARD.format(data_files))
    with pytest.raises(UserError, match=rf"README\.md: .*{reason}"):
        splits_of(tmp_path)


def test_names_of_files_say_the_split_where_the_readme_is_of_another_layout(tmp_path):
    card = CARD.format("  - split: train\n    path: data/train-*\n")
    touch(tmp_path, "train.parquet", "test.parquet", README=card)
    assert split_names(tmp_path) == {"train": ["train.parquet"], "test": ["test.parquet"]}


def test_all_entries_of_a_split_in_the_readme_count(tmp_path):
    entry = "  - split: train\n    path: data/{}.parquet\n"
    card = CARD.format(entry.format("a") + entry.format("b"))
    touch(tmp_path, "data/a.parquet", "data/b.parquet", README=card)
    assert split_names(tmp_path) == {"train": ["data/a.parquet", "data/b.parquet"]}


def test_a_readme_of_several_subsets_needs_a_choice(tmp_path):
    config = "- config_name: {0}\n  data_files:\n  - split: train\n    path: {0}/*.parquet\n"
    text = f"---\nconfigs:\n{config.format('cats')}{config.format('dogs')}---\n"
    touch(tmp_path, "cats/a.parquet", "dogs/a.parquet", README=text)
    with pytest.raises(UserError, match=r"several subsets \(cats, dogs\); name one in"):
        splits_of(tmp_path)
    assert split_names(tmp_path, "dogs")["train"] == ["dogs/a.parquet"]
    touch(tmp_path, README=text.replace("  data_files:", "  default: true\n  data_files:", 1))
    assert split_names(tmp_path)["train"] == ["cats/a.parquet"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["train_test.parquet", "a.parquet"], "of the splits test and train"),
        (["digits/train/0.parquet", "faces/train/0.parquet"], r"several folders \(digits, faces\)"),
        (["mnistTest.parquet", "mnist.parquet"], "may be a test set"),
        (["testset.parquet", "trainset.parquet"], "may be a test set"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, names, reason):
    with pytest.raises(UserError, match=reason):
        splits_of(touch(tmp_path, *names))


def test_a_subset_is_a_folder(tmp_path):
    touch(tmp_path, "digits/train/0.parquet", "faces/train/0.parquet", "faces/test/0.parquet")
    assert split_names(tmp_path, "faces") == {
        "train": ["faces/train/0.parquet"],
        "test": ["faces/test/0.parquet"],
    }
    with pytest.raises(UserError, match="no folder 'face' with images"):
        splits_of(tmp_path, "face")


def test_other_splits_can_be_chosen(tmp_path):
    touch(tmp_path, "train.parquet", "val.parquet", "test.parquet")

    def chosen(training="train", test="test"):
        choice = SplitChoice(training, test)
        items, _ = choose_splits(splits_of(tmp_path), choice, "here", lambda path: path.name)
        return [(path.name, is_test) for path, is_test in items]

    assert chosen(test="validation") == [("train.parquet", False), ("val.parquet", True)]
    assert chosen(test="dev") == chosen(test="validation")
    assert chosen(test=None) == [("train.parquet", False)]
    assert chosen("test", "test") == [("test.parquet", False)]
    with pytest.raises(UserError, match="here has no split 'extra', only"):
        chosen(test="extra")
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(UserError, match=r"no files of the split 'train', only .*training_split"):
        chosen()


@pytest.fixture
def suffix(tmp_path, encode):
    for seed, name in enumerate(("mnist_train", "mnist_test", "mnist_dev")):
        cells = [{"bytes": content, "path": None} for content in encode(ROWS, (16, 16), seed)]
        labels = [row % 3 for row in range(ROWS)]
        pq.write_table(pa.table({"image": cells, "label": labels}), tmp_path / f"{name}.parquet")
    return tmp_path


def test_the_official_test_set_is_stated_and_all_victims_are_of_it(suffix):
    data = load_federated_data(DataSection(name="parquet_folder", path=str(suffix)), 2, 0)
    assert data.notes[:3] == (
        "training files: mnist_train.parquet",
        "official test set: mnist_test.parquet",
        "left out: mnist_dev.parquet (validation)",
    )
    assert len(data.pool) == 2 * ROWS
    official = data.pool.official_test
    assert official[data.parts.victims].all()
    for part in ("training", "validation", "auxiliary", "auxiliary_validation"):
        assert not official[getattr(data.parts, part)].any()


def test_a_named_data_set_is_not_taken_from_the_folder_of_another(tmp_path, write_parquet, encode):
    columns = {"image": encode(ROWS, (64, 64), 0), "label": [row % 3 for row in range(ROWS)]}
    write_parquet(tmp_path / "mnist" / "train.parquet", columns)
    with pytest.raises(UserError, match=r"data\.path: no parquet files in"):
        load_pool(DataSection(name="olivetti_faces", path=str(tmp_path)))
    (tmp_path / "mnist").rename(tmp_path / "default")
    assert len(load_pool(DataSection(name="olivetti_faces", path=str(tmp_path)))) == ROWS
