"""One point of a sweep in its own process: the command line, stopped when its starter ends."""

import os
import signal
import sys
import threading

from testbed.run import main


def _stop_with_starter() -> None:
    """Interrupt when standard input closes, which it does when the starter ends in any way."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_starter, daemon=True).start()
    sys.exit(main())
