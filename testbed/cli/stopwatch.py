"""Times single steps of a run on this machine, in processor time of one thread."""

import math
import time
from collections.abc import Callable, Hashable

from testbed.core.threads import one_thread

ENOUGH_S = 0.02
MOST_REPEATS = 4
LONG_S = 0.1


class Stopwatch:
    """Times each kind of step once.

    Processor time does not contain the time in which other processes have the processor. The
    shortest of a few repetitions is the one that they disturbed least.
    """

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def seconds(self, kind: Hashable, step: Callable[[], object]) -> float:
        """Return the seconds of a step; another of the same kind is not executed."""
        if kind not in self._seconds:
            with one_thread():
                self._seconds[kind] = _shortest(step)
        return self._seconds[kind]


def _shortest(step: Callable[[], object]) -> float:
    """Return the shortest time of a step after its first, which also loads and allocates.

    A long first step is not repeated.
    """
    best, spent = math.inf, 0.0
    for repeat in range(MOST_REPEATS):
        started = time.process_time()
        step()
        taken = time.process_time() - started
        spent += taken
        if repeat or taken > LONG_S:
            best = min(best, taken)
        if spent >= ENOUGH_S and best < math.inf:
            break
    return best
