"""Bad data and missing networks: one clear sentence each."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testbed.core.errors import UserError
from testbed.core.registries import DATASETS
from testbed.data import hub, olivetti_faces
from testbed.data.federated import load_pool
from testbed.scenario.loading import validate_scenario
from testbed.scenario.schema import DataSection


def message(section: DataSection) -> str:
    with pytest.raises(UserError) as caught:
        load_pool(section)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path, write_parquet, encode):
    """A valid dataset of 60 grey images, which each test then damages."""
    columns = {"image": encode(60, (16, 16), 0), "label": [row % 3 for row in range(60)]}
    write_parquet(tmp_path / "train.parquet", columns)
    return tmp_path


def section(folder, **fields):
    return DataSection(name="parquet_folder", path=str(folder), **fields)


def spoil(folder, **columns):
    table = pq.read_table(folder / "train.parquet")
    for name, values in columns.items():
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, folder / "train.parquet")


def image_cells(contents):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in contents], type=kind)


def test_the_valid_folder_loads(folder):
    assert len(load_pool(section(folder))) == 60


def test_missing_folder(tmp_path):
    text = message(DataSection(name="cifar10", path=str(tmp_path / "nowhere")))
    assert text.startswith("data.path: no parquet files in ")
    assert "nowhere" in text
    assert "digits" in text


def test_a_file_is_no_folder(folder, monkeypatch):
    assert "train.parquet is a file; give the folder" in message(section(folder / "train.parquet"))
    monkeypatch.chdir(folder.parent)  # a relative path looks like a name on the hub
    assert "is a file; give the folder" in message(section(f"{folder.name}/train.parquet"))


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_split_without_rows_is_refused(folder, empty):
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table, folder / "test.parquet")
    pq.write_table(table.slice(0, 0), folder / f"{empty}.parquet")
    text = message(section(folder))
    assert f"{empty}.parquet: no rows in the " in text
    assert f"data.options.{'test' if empty == 'test' else 'training'}_split" in text


def test_the_most_images_must_keep_some_of_the_test_set(folder, write_parquet, encode):
    columns = {"image": encode(1000, (16, 16), 1), "label": [row % 3 for row in range(1000)]}
    write_parquet(folder / "test.parquet", columns)
    write_parquet(folder / "train.parquet", {name: cells[:1] for name, cells in columns.items()})
    text = message(section(folder, max_images=50))
    assert text == "data.max_images: 50 images are none of the training files; raise it"


@pytest.mark.parametrize("columns", [{}, {"image": pa.array([]), "label": pa.array([])}])
def test_a_file_without_rows_among_others_is_left_out(folder, columns):
    pq.write_table(pa.table(columns), folder / "train-0.parquet")  # sorted before train.parquet
    pool = load_pool(section(folder))
    assert len(pool) == 60
    assert "1 of these 2 files has no rows" in pool.notes


@pytest.mark.parametrize(
    "cells",
    [
        ["a/b.png"] * 60,
        [[1, 2]] * 60,
        [{"bytes": "text", "path": None}] * 60,
        [[{"bytes": b"", "path": None}]] * 60,
    ],
)
def test_columns_without_encoded_images_say_what_is_read(folder, cells):
    spoil(folder, image=pa.array(cells))
    for options in ({}, {"image_column": "image"}):
        assert "JPEG or PNG bytes, or {bytes, path}" in message(section(folder, options=options))


def test_binary_views_are_read(folder):
    contents = pq.read_table(folder / "train.parquet").column("image").combine_chunks()
    views = contents.field("bytes").cast(pa.binary_view())
    pool = load_pool(section(folder))
    spoil(folder, image=views)
    assert np.array_equal(load_pool(section(folder)).images, pool.images)


@pytest.mark.parametrize("given", [0, 1, True, 2.5])
def test_a_person_column_is_a_name_or_false(folder, given):
    with pytest.raises(ValueError, match=r"name of a column, false \(no split by person\) or null"):
        section(folder, options={"person_column": given})


def test_errors_in_options_name_their_key(tiny):
    tiny["data"] = {"name": "parquet_folder", "path": "x", "options": {"mode": "X"}}
    with pytest.raises(UserError, match=r"^test: data\.options\.mode: input should be 'L'"):
        validate_scenario(tiny, "test")
    own = {"name": "parquet_folder", "path": "x", "options": {"person_column": 0}}
    tiny["data"]["options"] = {}
    tiny["adversaries"][0]["knowledge"] = {"auxiliary_data": own}
    key = r"knowledge\.auxiliary_data\.options\.person_column: give the name of a column"
    with pytest.raises(UserError, match=key):
        validate_scenario(tiny, "test")


def test_path_is_required_for_a_parquet_folder():
    assert message(DataSection(name="parquet_folder")).startswith("data.path: required")


def test_corrupt_file(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 this is not parquet PAR1")
    assert f"{folder / 'train.parquet'}: not a readable parquet file" in message(section(folder))


def test_truncated_pages(folder):
    raw = bytearray((folder / "train.parquet").read_bytes())
    raw[40:4000] = bytes(3960)
    (folder / "train.parquet").write_bytes(raw)
    assert f"{folder / 'train.parquet'}" in message(section(folder))


def test_missing_column(folder):
    (folder / "train.parquet").rename(folder / "other.parquet")
    (folder / "cifar10").mkdir()
    (folder / "other.parquet").rename(folder / "cifar10" / "train.parquet")
    text = message(DataSection(name="cifar10", path=str(folder)))
    assert "no column 'img'; it has image, label" in text


def test_no_label_column(folder):
    spoil(folder, label=None)
    assert "cannot find the label_column among image" in message(section(folder))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no image", "not a readable JPEG or PNG image"), (None, "no image bytes")],
)
def test_undecodable_image(folder, encode, content, reason):
    contents = encode(60, (16, 16), 0)
    contents[17] = content
    spoil(folder, image=image_cells(contents))
    text = message(section(folder))
    assert f"{folder / 'train.parquet'}, row 17: " in text
    assert reason in text


def test_truncated_image(folder, encode):
    contents = encode(60, (16, 16), 0)
    contents[3] = contents[3][:-40]
    spoil(folder, image=image_cells(contents))
    assert "row 3: not a readable" in message(section(folder))


def test_images_of_different_sizes_need_a_common_size(folder, encode):
    contents = encode(60, (16, 16), 0)
    contents[5] = encode(1, (32, 16), 1)[0]
    spoil(folder, image=image_cells(contents))
    text = message(section(folder))
    assert "row 5: the image is 16x32 grey" in text
    assert "data.image_size_px" in text
    assert load_pool(section(folder, image_size_px=32)).image_shape == (1, 32, 32)


def test_images_of_different_modes_are_refused(folder, encode):
    contents = encode(60, (16, 16), 0)
    contents[5] = encode(1, (16, 16, 3), 1)[0]
    spoil(folder, image=image_cells(contents))
    assert "all must be grey or all RGB" in message(section(folder, image_size_px=32))
    pool = DATASETS.create(
        "parquet_folder", {"mode": "RGB"}, path=str(folder), image_size_px=None, max_images=None
    )
    assert pool.image_shape == (3, 16, 16)


def test_unsupported_mode(folder, encode):
    spoil(folder, image=image_cells(encode(60, (16, 16, 4), 0)))
    assert "mode RGBA" in message(section(folder))


def test_odd_native_size(folder, encode):
    spoil(folder, image=image_cells(encode(60, (20, 20), 0)))
    text = message(section(folder))
    assert text.startswith("data.image_size_px: ")
    assert "20x20" in text


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0.5] * 60, "column 'label' holds 0.5, which is no class number"),
        ([None] * 60, "no row of the training files has a class"),
    ],
)
def test_labels_that_are_not_classes(folder, labels, reason):
    spoil(folder, label=pa.array(labels))
    assert reason in message(section(folder))


def test_one_class_is_no_task(folder):
    spoil(folder, label=pa.array([1] * 60))
    assert "fewer than two classes" in message(section(folder))


def test_labels_beyond_the_named_classes(tmp_path, write_parquet, encode):
    columns = {"image": encode(60, (16, 16), 0), "label": [row % 3 for row in range(60)]}
    write_parquet(tmp_path / "train.parquet", columns, ["only", "two"])
    assert "2 classes, 0 to 1" in message(section(tmp_path))


def test_no_network_is_one_sentence(monkeypatch):
    monkeypatch.delenv("TESTBED_DATA_DIR", raising=False)

    def fail(*_args, **_kwargs):
        raise ConnectionError("Couldn't reach 'uoft-cs/cifar10' on the Hub\nwith more lines")

    monkeypatch.setattr(hub, "_probe", lambda repository: None)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    text = message(DataSection(name="cifar10"))
    assert "uoft-cs/cifar10" in text
    assert "TESTBED_DATA_DIR" in text
    assert "data.name=digits" in text


def test_unreachable_hub_is_found_before_loading(monkeypatch):
    import huggingface_hub

    monkeypatch.delenv("TESTBED_DATA_DIR", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def refuse(_self, repository, *, timeout):
        assert timeout == hub.TIMEOUT_S
        raise OSError("no route")

    def never(*_args):
        raise AssertionError("load_dataset would retry for half a minute")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset", never)
    assert "no route" in message(DataSection(name="cifar10"))


def test_hub_dataset_is_read_like_a_folder(monkeypatch, tmp_path, write_parquet, encode):
    columns = {"img": encode(80, (32, 32, 3), 0), "label": [row % 4 for row in range(80)]}
    write_parquet(tmp_path / "cifar10" / "train.parquet", columns)
    write_parquet(tmp_path / "cifar10" / "test.parquet", {k: v[:30] for k, v in columns.items()})
    local = load_pool(DataSection(name="cifar10", path=str(tmp_path)))

    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])}
    )
    cells = {
        "img": [{"bytes": content, "path": None} for content in columns["img"]],
        "label": columns["label"],
    }
    train = datasets.Dataset.from_dict(cells, features=features)
    fake = datasets.DatasetDict({"test": train.select(range(30)), "train": train})
    asked = []
    monkeypatch.delenv("TESTBED_DATA_DIR", raising=False)
    monkeypatch.setattr(hub, "_probe", lambda repository: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or fake)
    pool = load_pool(DataSection(name="cifar10"))
    assert asked == [("uoft-cs/cifar10",)]
    assert pool.label_names == ["a", "b", "c", "d"]
    assert np.array_equal(pool.images, local.images)
    assert np.array_equal(pool.official_test, local.official_test)
    assert pool.official_test.sum() == 30
    assert pool.notes[1] == "official test set: test of the hub"
    one = DATASETS.create(
        "parquet_folder",
        {"subset": "plain_text", "test_split": None},
        path="uoft-cs/cifar10",
        image_size_px=None,
        max_images=None,
    )
    assert asked[1] == ("uoft-cs/cifar10", "plain_text")
    assert one.official_test is None
    assert len(one) == 80
    assert one.notes[2] == "left out: test of the hub (test)"


def test_faces_from_the_web(monkeypatch):
    import hashlib
    import io

    from scipy.io import savemat

    faces = np.random.default_rng(0).integers(0, 256, (40, 64, 64), dtype=np.uint8)
    buffer = io.BytesIO()
    savemat(buffer, {"faces": faces.transpose(0, 2, 1).reshape(40, -1).T})
    monkeypatch.delenv("TESTBED_DATA_DIR", raising=False)
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda url, timeout: io.BytesIO(buffer.getvalue())
    )
    assert "SHA-256" in message(DataSection(name="olivetti_faces"))
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    monkeypatch.setattr(olivetti_faces, "ARCHIVE_SHA256", digest)
    pool = load_pool(DataSection(name="olivetti_faces"))
    assert np.array_equal(pool.images[:, 0], faces)
    assert np.array_equal(pool.labels, np.repeat(np.arange(4), 10))


def test_faces_without_a_network(monkeypatch):
    monkeypatch.delenv("TESTBED_DATA_DIR", raising=False)

    def fail(*_args, **_kwargs):
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    assert "TESTBED_DATA_DIR" in message(DataSection(name="olivetti_faces"))
