"""Images as cameras, scanners and drawing programs write them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parquet_images import load, refusal, section
from PIL import Image

from testbed.data.federated import load_federated_data, load_pool
from testbed.scenario.schema import DataSection

ROWS = 60
SIDE = 16
RGB = np.random.default_rng(0).integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture
def save(tmp_path):
    """Write a file of images (Pillow images or encoded bytes) of three classes."""

    def make(images, name="train"):
        contents = [image if isinstance(image, bytes) else encoded(image) for image in images]
        (tmp_path / name).mkdir(exist_ok=True)
        table = {
            "image": [{"bytes": content, "path": None} for content in contents],
            "label": [row % 3 for row in range(len(contents))],
        }
        pq.write_table(pa.table(table), tmp_path / name / "train.parquet")
        return tmp_path / name

    return make


def deep(pixels):
    """Return grey pixels as an image of 16 bits."""
    return Image.fromarray(pixels.astype(np.uint16))


@pytest.mark.parametrize("options", [{}, {"mode": "L"}, {"mode": "RGB"}])
def test_grey_of_16_bits_is_the_picture_of_8_bits(save, options):
    shallow = load_federated_data(
        section(save([Image.fromarray(image) for image in GREY], "g8"), **options), 3, 0
    )
    folder = save([deep(image * np.uint16(257)) for image in GREY], "g16")
    both = load_federated_data(section(folder, **options), 3, 0)
    assert np.array_equal(both.pool.images, shallow.pool.images)
    assert np.array_equal(both.pool.content_keys, shallow.pool.content_keys)
    assert np.array_equal(both.parts.victims, shallow.parts.victims)
    # values between two levels of 8 bits are rounded
    between = np.arange(ROWS * SIDE * SIDE, dtype=np.int64).reshape(ROWS, SIDE, SIDE) * 4 % 65536
    pool = load(save([deep(image) for image in between]), **options)
    assert np.array_equal(pool.images[:, 0], np.round(between / 257).astype(np.uint8))


def test_12_bit_values_in_16_bit_files_are_warned_about(save):
    pool = load(save([deep(image.astype(np.uint16) * 16) for image in GREY]))
    assert pool.warnings == (
        f"no value of 60 of 60 images is above {pool.images.max()} of 255, as of 12-bit values in "
        "16-bit files; scale the files to their full range",
    )
    one_scaled = [deep(GREY[0] * np.uint16(257)), *(deep(x * np.uint16(16)) for x in GREY[1:])]
    assert load(save(one_scaled)).warnings[0].startswith("no value of 59 of 60 images is above 16")
    assert not load(save([deep(image * np.uint16(257)) for image in GREY])).warnings


def test_images_that_are_not_square_are_stated_where_they_are_resized(save):
    folder = save([Image.fromarray(x if row % 3 else x[:, :8]) for row, x in enumerate(GREY)])
    pool = load_pool(DataSection(name="parquet_folder", path=str(folder), image_size_px=16))
    note = "20 of 60 images are not square and are stretched or shrunk to 16x16 pixels"
    assert note in pool.notes


def test_grey_of_1_bit_is_black_and_white(save):
    pool = load(save([Image.fromarray(image > 127) for image in GREY]))
    assert np.array_equal(pool.images[:, 0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_orientation_tags_are_applied(save, kind):
    turns = {  # EXIF 2.32, table of Orientation: what a viewer shows of the stored pixels
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    files, expected = [], []
    for row in range(ROWS):
        orientation = row % 8 + 1
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(RGB[row]), kind, exif=exif)
        stored = np.asarray(Image.open(io.BytesIO(content)))
        files.append(content)
        expected.append(turns[orientation](stored))
    pool = load(save(files))
    assert np.array_equal(pool.images.transpose(0, 2, 3, 1), np.stack(expected))


def test_a_damaged_orientation_tag_is_ignored(save):
    images = [encoded(Image.fromarray(image), exif=b"Exif\x00\x00junk") for image in RGB]
    assert np.array_equal(load(save(images)).images.transpose(0, 2, 3, 1), RGB)


def paletted(pixels):
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.putdata((pixels[..., 0] % 4).ravel().tolist())
    return image


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], dtype=np.uint8)
UNUSUAL = {
    "palette": ([paletted(image) for image in RGB], COLOURS[RGB[..., 0] % 4]),
    "RGBA": ([Image.fromarray(image).convert("RGBA") for image in RGB], RGB),
    "LA": ([Image.fromarray(image).convert("LA") for image in GREY], GREY[..., None].repeat(3, 3)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_needs_converting_is_refused_by_the_name_of_the_option_that_reads_it(save, name):
    images, expected = UNUSUAL[name]
    folder = save(images)
    text = refusal(folder)
    assert "train.parquet, row 0: the image " in text
    assert "to read it, set mode: RGB (or L, for grey) in the data.options" in text
    assert np.array_equal(load(folder, mode="RGB").images.transpose(0, 2, 3, 1), expected)
    grey = load(folder, mode="L").images[:, 0]
    assert np.array_equal(
        grey, np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in expected])
    )


def test_transparent_parts_are_white(save):
    alpha = np.zeros((SIDE, SIDE, 1), dtype=np.uint8)
    alpha[:, : SIDE // 2] = 255
    images = [Image.fromarray(np.concatenate([image, alpha], axis=2)) for image in RGB]
    pixels = load(save(images), mode="RGB").images.transpose(0, 2, 3, 1)
    assert np.array_equal(pixels[:, :, : SIDE // 2], RGB[:, :, : SIDE // 2])
    assert (pixels[:, :, SIDE // 2 :] == 255).all()


def test_a_transparent_colour_counts_as_transparency(save):
    images = [
        encoded(Image.fromarray(image), transparency=tuple(image[0, 0].tolist())) for image in RGB
    ]
    folder = save(images)
    assert "has transparency (mode RGB)" in refusal(folder)
    pixels = load(folder, mode="RGB").images.transpose(0, 2, 3, 1)
    assert (pixels[:, 0, 0] == 255).all()
    assert np.array_equal(pixels[:, 1:][pixels[:, 1:] < 255], RGB[:, 1:][pixels[:, 1:] < 255])


def test_cmyk_is_read_as_pillow_converts_it(save):
    images = [encoded(Image.fromarray(image).convert("CMYK"), "JPEG") for image in RGB]
    folder = save(images)
    assert "is in CMYK" in refusal(folder)
    expected = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in images]
    assert np.array_equal(load(folder, mode="RGB").images.transpose(0, 2, 3, 1), np.stack(expected))


def test_grey_among_colour_is_refused_by_the_name_of_the_option(save):
    images = [Image.fromarray(image) for image in RGB]
    images[5] = Image.fromarray(GREY[5])
    folder = save(images)
    text = refusal(folder)
    assert "row 5" in text
    assert "to convert them, set mode: RGB (or L, for grey)" in text
    assert np.array_equal(load(folder, mode="RGB").images[5], GREY[5][None].repeat(3, 0))


def test_messages_print_no_memory_address(save):
    contents = [encoded(Image.fromarray(image)) for image in RGB]
    for content in (b"no image", encoded(Image.fromarray(RGB[0]), "GIF"), contents[0][:50]):
        text = refusal(save([content, *contents[1:]]))
        assert "row 0: not a readable JPEG or PNG image" in text
        assert "0x" not in text


def test_equal_pictures_have_equal_content_keys_however_encoded(save):
    plain = load(save([Image.fromarray(image) for image in RGB]))
    again = [encoded(Image.fromarray(image), compress_level=1) for image in RGB]
    for images in (again, [Image.fromarray(image).convert("RGBA") for image in RGB]):
        assert np.array_equal(load(save(images), mode="RGB").content_keys, plain.content_keys)
    assert len(set(plain.content_keys)) == ROWS
