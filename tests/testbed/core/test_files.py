"""Files are written atomically, and an error names the file."""

import errno

import pytest
from safetensors import SafetensorError

from testbed.core.files import whole_file


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: disk full")],
)
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, failure):
    path = tmp_path / "results.json"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise failure

    with pytest.raises(OSError, match=r"No space|disk full") as caught, whole_file(path) as half:
        write(half)
    assert caught.value.filename == str(path)
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]
    assert path.read_text() == "old"
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert [item.read_text() for item in tmp_path.iterdir()] == ["new"]
