"""Classes as people store them: names decide, and what cannot be matched is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parquet_images import load, refusal, section

from testbed.core.errors import UserError
from testbed.data.federated import load_federated_data
from testbed.scenario.schema import DataSection

ROWS = 60
ANIMALS = ["cat", "dog", "owl"]


@pytest.fixture
def save(tmp_path, encode):
    """Write a file of images, with columns and the names that it declares for class numbers."""

    def make(name, seed=0, *, declared=None, image="image", **columns):
        cells = [{"bytes": content, "path": None} for content in encode(ROWS, (16, 16), seed)]
        table = pa.table({image: cells, **columns})
        features = {k: {"_type": "ClassLabel", "names": v} for k, v in (declared or {}).items()}
        info = json.dumps({"info": {"features": features}})
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), tmp_path / name)
        return tmp_path

    return make


def named(pool, official):
    rows = np.flatnonzero(pool.official_test == official)
    return [pool.label_names[code] for code in pool.labels[rows]]


TURNS = [row % 3 for row in range(ROWS)]


def test_names_decide_where_files_declare_them_in_another_order(save):
    save("test.parquet", 1, declared={"label": ["owl", "cat", "dog"]}, label=TURNS)
    pool = load(save("train.parquet", declared={"label": ANIMALS}, label=TURNS))
    assert pool.label_names == ANIMALS
    assert named(pool, False) == [ANIMALS[code] for code in TURNS]
    assert named(pool, True) == [["owl", "cat", "dog"][code] for code in TURNS]


def test_a_file_that_declares_fewer_names_is_mapped(save):
    save("test.parquet", 1, declared={"label": ["owl", "cat"]}, label=[row % 2 for row in TURNS])
    pool = load(save("train.parquet", declared={"label": ANIMALS}, label=TURNS))
    assert pool.label_names == ANIMALS
    assert named(pool, True) == [["owl", "cat"][row % 2] for row in TURNS]


@pytest.mark.parametrize(
    ("train", "test", "holds"),
    [
        ({"label": [ANIMALS[code] for code in TURNS]}, {"label": TURNS}, "names in"),
        ({"label": TURNS}, {"label": [str(code) for code in TURNS]}, "text in"),
        (
            {"label": TURNS, "declared": {"label": ANIMALS}},
            {"label": TURNS},
            "class numbers without names in",
        ),
        ({"label": [code > 0 for code in TURNS]}, {"label": TURNS}, "true and false in"),
        (
            {"label": TURNS, "declared": {"label": ANIMALS}},
            {"label": TURNS, "declared": {"label": ["a", "b", "c"]}},
            "no name is in both",
        ),
    ],
)
def test_values_that_cannot_be_matched_are_refused_by_file_and_column(save, train, test, holds):
    if holds == "names in":
        test = test | {"declared": {"label": ANIMALS}}
    save("test.parquet", 1, **test)
    text = refusal(save("train.parquet", **train))
    assert "column 'label'" in text
    assert "train.parquet" in text
    assert "test.parquet" in text
    assert holds in text
    assert "\n" not in text


def test_a_column_named_label_wins_over_the_first_declared_one(save):
    declared = {"weather": ["sun", "rain"], "label": ANIMALS}
    columns = {"weather": [row % 2 for row in range(ROWS)], "label": TURNS}
    folder = save("train.parquet", declared=declared, **columns)
    assert load(folder).label_names == ANIMALS
    assert load(folder, label_column="weather").label_names == ["sun", "rain"]


def test_several_columns_without_a_usual_name_are_listed(save):
    declared = {"weather": ["sun", "rain"], "animal": ANIMALS}
    columns = {"weather": [row % 2 for row in range(ROWS)], "animal": TURNS}
    folder = save("train.parquet", declared=declared, **columns)
    text = refusal(folder)
    assert (
        "weather, animal could each be the label_column; name it in data.options.label_column"
        in text
    )
    assert load(folder, label_column="animal").label_names == ANIMALS
    del columns["animal"]
    assert load(save("train.parquet", declared=declared, **columns)).label_names == ["sun", "rain"]


def test_columns_of_cifar_100_and_upper_case_names_are_found(save):
    columns = {"fine_label": TURNS, "coarse_label": [0, 1] * (ROWS // 2)}
    declared = {"coarse_label": ["pet", "bird"], "fine_label": ANIMALS}
    assert load(save("train.parquet", declared=declared, **columns)).label_names == ANIMALS
    folder = save("train.parquet", image="Image", Label=TURNS)
    assert load(folder).label_names == ["0", "1", "2"]


def test_a_mask_is_not_taken_for_the_image(save, encode):
    masks = [{"bytes": content, "path": None} for content in encode(ROWS, (16, 16), 9)]
    folder = save("train.parquet", image="scan", label=TURNS, mask=masks)
    assert (
        "scan, mask could each be the image_column; name it in data.options.image_column"
        in refusal(folder)
    )
    own = load(folder, image_column="scan")
    with_name = load(save("train.parquet", label=TURNS, mask=masks))
    assert np.array_equal(own.images, with_name.images)


def test_a_mark_of_unlabelled_rows_is_no_class(save):
    labels = [-1, None, *TURNS[2:]]
    for declared in ({"label": ANIMALS}, {}):
        pool = load(save("train.parquet", declared=declared, label=labels))
        assert len(pool) == ROWS - 2
        assert pool.num_classes == 3
        assert np.array_equal(pool.labels, TURNS[2:])
        assert pool.warnings == ("2 of 60 rows have no class (-1 or empty) and are left out",)
    texts = ["", None, *(ANIMALS[code] for code in TURNS[2:])]
    pool = load(save("train.parquet", label=texts))
    assert pool.label_names == ANIMALS
    assert len(pool) == ROWS - 2
    assert (
        load_federated_data(section(save("train.parquet", label=texts)), 2, 0).warnings[0]
        == (pool.warnings[0])
    )


def test_minus_one_and_one_are_two_classes(save):
    pool = load(save("train.parquet", label=[-1, 1] * (ROWS // 2)))
    assert pool.label_names == ["-1", "1"]
    assert len(pool) == ROWS
    assert not pool.warnings


def test_an_official_test_set_without_classes_is_refused(save):
    save("train.parquet", declared={"label": ANIMALS}, label=TURNS)
    text = refusal(save("test.parquet", 1, declared={"label": ANIMALS}, label=[-1] * ROWS))
    assert "test.parquet: no row of the official test set has a class" in text
    text = refusal(save("test.parquet", 1, label=[None] * ROWS))
    assert "test.parquet: no row of the official test set has a class" in text


def test_categories_booleans_whole_floats_and_bytes_are_read(save):
    animals = [ANIMALS[code] for code in TURNS]
    for labels in (pa.array(animals).dictionary_encode(), [name.encode() for name in animals]):
        pool = load(save("train.parquet", label=labels))
        assert [pool.label_names[code] for code in pool.labels] == animals
    pool = load(save("train.parquet", label=[float(code) for code in TURNS]))
    assert pool.label_names == ["0", "1", "2"]
    pool = load(save("train.parquet", label=[code > 0 for code in TURNS]))
    assert pool.label_names == ["false", "true"]
    assert np.array_equal(pool.labels, [code > 0 for code in TURNS])


def test_class_numbers_are_sorted_as_numbers(save):
    pool = load(save("train.parquet", label=[row % 12 for row in range(ROWS)]))
    assert pool.label_names == [str(code) for code in range(12)]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0.5] * ROWS, "holds 0.5, which is no class number"),
        ([[1]] * ROWS, "holds list<"),
        ([float("inf")] * ROWS, "holds inf"),
        ([2.0**53 * (row % 2) for row in range(ROWS)], "holds 9007199254740992.0, which is no"),
    ],
)
def test_values_that_are_no_classes_are_refused(save, labels, reason):
    assert reason in refusal(save("train.parquet", label=labels))


@pytest.mark.parametrize("other", ["Cat", "cat ", " cat", "\uff43at"])
def test_names_that_look_the_same_are_warned_about(save, other):
    names = [["cat", other, "owl"][code] for code in TURNS]
    (warning,) = load(save("train.parquet", label=names)).warnings
    assert f"{' and '.join(map(repr, sorted(['cat', other])))} count as different" in warning
    # letters that a file declares are classes by intention, as in EMNIST
    pool = load(save("train.parquet", declared={"label": ["cat", other, "owl"]}, label=TURNS))
    assert not pool.warnings
    texts = {"label": TURNS, "who": names}
    (warning,) = load(save("train.parquet", **texts), person_column="who").warnings
    assert warning.startswith("column 'who': ")


def test_texts_that_mean_a_missing_class_are_warned_about(save):
    names = [["cat", "nan", "owl"][code] for code in TURNS]
    (warning,) = load(save("train.parquet", label=names)).warnings
    assert warning.startswith("column 'label': the text 'nan' counts as a name")


def test_one_class_among_several_declared_is_no_task(save):
    folder = save("train.parquet", declared={"label": ANIMALS}, label=[1] * ROWS)
    assert "fewer than two classes in column 'label'" in refusal(folder)


def test_names_by_number_must_be_of_all_numbers(save):
    shifted = {"1": "cat", "2": "dog", "3": "owl"}
    text = refusal(save("train.parquet", declared={"label": shifted}, label=TURNS))
    assert "names of the class numbers 1, 2, 3; they must be 0 to 2" in text
    from_zero = {"2": "owl", "0": "cat", "1": "dog"}
    pool = load(save("train.parquet", declared={"label": from_zero}, label=TURNS))
    assert pool.label_names == ANIMALS


def test_classes_that_no_device_trains_on_are_warned_about(save):
    one_each = {"name": "pathological", "num_classes_per_partition": 1}
    fields = section(save("train.parquet", label=TURNS)).model_dump() | {"partitioner": one_each}
    data = load_federated_data(DataSection(**fields), 2, 0)
    held = {int(data.pool.labels[row]) for rows in data.device_images for row in rows}
    (absent,) = {0, 1, 2} - held
    assert data.warnings == (
        f"no device has training images of 1 of 3 classes ({absent}): the fleet cannot learn them; "
        "data.partitioner leaves them out, or data.images_per_device is small",
    )


def test_a_training_part_of_one_class_is_warned_about(save):
    save("test.parquet", 1, label=TURNS)
    data = load_federated_data(section(save("train.parquet", label=[1] * ROWS)), 2, 0)
    assert "the training part has one class only (1)" in data.warnings


def test_pictures_of_several_classes_are_warned_about(save, encode, tmp_path):
    cells = [{"bytes": content, "path": None} for content in encode(ROWS, (16, 16), 0)]
    table = pa.table({"image": cells[:-2] + cells[:2], "label": TURNS})
    pq.write_table(table, tmp_path / "train.parquet")
    (warning,) = load(tmp_path).warnings
    assert warning == "2 pictures are in the files more than once, with different classes"


def test_a_name_that_is_declared_twice_is_refused(save):
    text = refusal(save("train.parquet", declared={"label": ["cat", "cat"]}, label=TURNS))
    assert "declares the class 'cat' twice" in text


def test_persons_are_matched_by_name_over_files(save):
    people = ["ann", "ben", "cem"]
    save("test.parquet", 1, declared={"who": people[::-1]}, label=TURNS, who=[2 - c for c in TURNS])
    folder = save("train.parquet", declared={"who": people}, label=TURNS, who=TURNS)
    pool = load(folder, person_column="who")
    assert np.array_equal(pool.persons, pool.labels)
    save("test.parquet", 1, label=TURNS, who=[people[code] for code in TURNS])
    assert "column 'who' holds" in refusal(folder, person_column="who")
    save("test.parquet", 1, declared={"who": people}, label=TURNS, who=[0, -1, *TURNS[2:]])
    assert "test.parquet, row 1: column 'who' names no person" in refusal(
        folder, person_column="who"
    )


STYLES = [f"{ANIMALS[code]} {'thin' if row % 2 else 'bold'}" for row, code in enumerate(TURNS)]


def test_the_split_is_by_person_only_if_the_scenario_says_so(save):
    for name in ("subject", "Person", "identity"):
        columns = {"label": TURNS, name: STYLES}
        folder = save("train.parquet", **columns)
        data = load_federated_data(section(folder), 2, 0)
        assert data.pool.persons is None
        assert data.notes[-1] == "not split by person"
        (warning,) = data.warnings
        assert f"column '{name}' may name persons, but the split is not by person" in warning
        assert f"set data.options.person_column to {name}" in warning
        silent = load_federated_data(section(folder, person_column=False), 2, 0)
        assert silent.pool.persons is None
        assert not silent.warnings
        assert np.array_equal(silent.parts.victims, data.parts.victims)
        assert load(folder, person_column=name).persons is not None


@pytest.mark.parametrize("name", ["patient_id", "Participant", "user-name", "people", "celeb_id"])
def test_other_names_of_persons_are_asked_about(save, name):
    folder = save("train.parquet", label=TURNS, **{name: TURNS})
    (warning,) = load_federated_data(section(folder), 2, 0).warnings
    assert f"column '{name}' may name persons" in warning
    folder = save("train.parquet", label=TURNS, username_hash=TURNS)
    assert load_federated_data(section(folder), 2, 0).warnings == ()


def test_a_split_by_person_is_stated_and_named_as_the_cause_of_lost_classes(save):
    persons = [row % 30 for row in range(ROWS)]
    folder = save("train.parquet", label=[person // 2 for person in persons], subject=persons)
    data = load_federated_data(section(folder, person_column="subject"), 2, 0)
    assert data.notes[-2:] == (
        "images are in column 'image', classes in column 'label'",
        "split by person (column 'subject', 30 persons): no person is in two parts",
    )
    pool, parts = data.pool, data.parts
    assert not set(pool.persons[parts.training]) & set(pool.persons[parts.victims])
    lost = ~np.isin(pool.labels[parts.victims], pool.labels[parts.training])
    assert lost.any()
    (warning,) = data.warnings
    assert f"no model can be right on {lost.sum()} of {len(lost)} victims" in warning
    assert "the images are split by person (column 'subject', 30 persons)" in warning


def test_an_empty_part_names_the_split_by_person_as_the_cause(save):
    folder = save("train.parquet", label=TURNS, subject=[row % 2 for row in range(ROWS)])
    with pytest.raises(UserError, match=r"empty \(60 images in all, split by person \(column 'sub"):
        load_federated_data(section(folder, person_column="subject"), 2, 0)


def test_victims_of_classes_that_are_not_trained_are_warned_about(save):
    save("test.parquet", 1, label=[row % 4 for row in range(ROWS)])
    data = load_federated_data(section(save("train.parquet", label=TURNS)), 2, 0)
    lost = int((data.pool.labels[data.parts.victims] == 3).sum())
    assert lost > 0
    assert data.warnings == (
        f"no model can be right on {lost} of {len(data.parts.victims)} victims: their class is not "
        "in the training part (3); probably because the official test set has classes that the "
        "training files lack",
    )
