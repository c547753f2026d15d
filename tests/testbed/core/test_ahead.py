"""Modules are imported in the background; an import that fails there is tried again later."""

import sys

import pytest

from testbed.core.ahead import import_ahead


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that takes a while to import, and of one that cannot be."""
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(0.1); READY = True")
    (tmp_path / "broken_import.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_to_import", "broken_import"
    sys.modules.pop("slow_to_import", None)


def test_an_import_waits_for_the_one_in_the_background(module):
    slow, broken = module
    thread = import_ahead(broken, slow)
    import slow_to_import

    assert slow_to_import.READY
    thread.join(60)
    assert slow in sys.modules
    assert broken not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        __import__(broken)


def test_nothing_is_started_for_modules_that_are_there():
    assert import_ahead("sys", "os") is None
