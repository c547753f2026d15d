"""Imports modules in the background, for a later import that then takes no time."""

import contextlib
import importlib
import sys
import threading


def import_ahead(*names: str) -> threading.Thread | None:
    """Begin to import modules while this thread waits for something; return the thread that does.

    A module that cannot be imported says so where it is needed. None: all are imported already.
    """
    missing = [name for name in names if name not in sys.modules]
    if not missing:
        return None

    def imported() -> None:
        for name in missing:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)

    thread = threading.Thread(target=imported, name="imports", daemon=True)
    thread.start()
    return thread
