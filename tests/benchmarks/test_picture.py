"""The command behind the picture of the README."""

import numpy as np
import picture

from testbed.report.image_rows import LabelledRow


def row(label, note, value, channels):
    images = np.full((3, 32, 32, channels), value, dtype=np.uint8)
    return LabelledRow(label, note, images, label == "original")


def test_every_row_shows_its_first_images_beside_its_label():
    rows = [row("original", "", 10, 1), row("ridge", "plain", 200, 3)]
    drawn = picture.picture(rows, 2)
    assert drawn.shape == (2 * 102 + 6, 180 + 2 * 102, 3)
    for top, value in ((6, 10), (108, 200)):
        assert (drawn[top : top + 96, 180 : 180 + 96] == value).all()
        assert (drawn[top : top + 96, 180 + 102 : 180 + 198] == value).all()
        assert (drawn[top : top + 96, :180] < 255).any()


def test_readers_need_no_names_of_attacks():
    assert picture.label(row("residual decoder", "siftfunnel", 0, 1)) == (
        "reconstructed",
        "siftfunnel",
    )
    assert picture.label(row("mean image", "anchor, plain", 0, 1)) == (
        "mean image",
        "uses no features",
    )


def test_a_folder_without_results_is_refused_in_one_sentence(tmp_path, capsys):
    assert picture.main([str(tmp_path), str(tmp_path / "picture.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "picture.png").exists()
