"""Radios in training: they wake for every message of a round, and stay awake after it."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from testbed.engine.network.ledger import Charge, Charges
from testbed.fleet.link_effects import RadioTimers, RadioUse


class TrainingRadios:
    """Adds the wake-ups and tails of radios to the charges of a round's messages.

    The rules are those of serving (``testbed.fleet.link_effects.RadioUse``): a radio that was idle
    while its device computed, or while the server waited for others, wakes up for the next message.

    Parameters
    ----------
    timers : None: radios never sleep.
    rtt_ms : (devices,) round trips; each transfer holds half of one.
    """

    def __init__(self, timers: RadioTimers | None, rtt_ms: NDArray[np.float64]) -> None:
        self._timers = timers
        self._rtt_ms = rtt_ms
        self._use = RadioUse(timers)  # by device
        self._replied_ms: dict[int, float] = {}

    def in_round(
        self, device: int, charge: Charge, sent_ms: float, first: bool
    ) -> tuple[Charge, float]:
        """Return the charge of a message of a round and its reply, and when the reply arrives.

        Parameters
        ----------
        sent_ms : when the server sends the message.
        first : whether it is the device's first of the round.
        """
        way_ms = float(self._rtt_ms[device]) / 2.0
        down_ms = self._use.begin(device, device, sent_ms + way_ms) + charge.downlink_ms
        received_ms = sent_ms + down_ms
        self._use.end(device, device, received_ms)
        computed_ms = received_ms + charge.compute_ms
        up_ms = self._use.begin(device, device, computed_ms) + charge.uplink_ms
        replied_ms = computed_ms + up_ms
        self._use.end(device, device, replied_ms - way_ms)
        since_ms = sent_ms if first else self._replied_ms.get(device, sent_ms)
        self._replied_ms[device] = replied_ms
        with_radio = _with_radio(charge, down_ms, up_ms, self._use.mj.pop(device))
        return replace(with_radio, round_ms=replied_ms - since_ms), replied_ms

    def alone(self, device: int, charge: Charge) -> Charge:
        """Return the charge of a message outside rounds and requests: the radio sleeps before it.

        Enrolment and deployment may happen at any time, so each pays for a wake-up and a tail.
        """
        use = RadioUse(self._timers)
        down_ms = use.begin(device, device, 0.0) + charge.downlink_ms
        use.end(device, device, down_ms)
        up_ms = use.begin(device, device, down_ms) + charge.uplink_ms
        use.end(device, device, down_ms + up_ms)
        use.finish()
        return _with_radio(charge, down_ms, up_ms, use.mj[device])

    def alone_all(self, devices: NDArray[np.int64], charges: Charges) -> Charges:
        """Return ``alone`` of many devices in columns, to the bit."""
        if self._timers is None:
            return charges
        wake_ms, mj = self._timers.awakened(devices)
        return replace(
            charges,
            downlink_ms=wake_ms + charges.downlink_ms,
            energy_mj=charges.energy_mj + mj,
        )

    def sleeping(self, devices: int) -> NDArray[np.bool_]:
        """Return whether the radio of each device sleeps between messages (N,)."""
        return np.zeros(devices, np.bool_) if self._timers is None else self._timers.sleeping()

    def finish(self) -> dict[int, Charge]:
        """Let every radio fall asleep after the last round; return the charges by device."""
        self._use.finish()
        nothing = Charge(0, 0, 0.0, 0.0, 0.0, 0.0)
        tails = {device: _with_radio(nothing, 0.0, 0.0, mj) for device, mj in self._use.mj.items()}
        self._use.mj.clear()
        return tails

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return what a checkpoint keeps."""
        return self._use.state()

    def load_state(self, columns: dict[str, NDArray[np.float64]]) -> None:
        """Restore what ``state`` returned."""
        self._use.load_state(columns)


def _with_radio(charge: Charge, downlink_ms: float, uplink_ms: float, mj: float) -> Charge:
    """Return a charge with a radio's energy; unknown where the radio's power is unpublished."""
    energy_mj = None if charge.energy_mj is None or np.isnan(mj) else charge.energy_mj + mj
    return replace(
        charge,
        downlink_ms=downlink_ms,
        uplink_ms=uplink_ms,
        energy_mj=energy_mj,
        wake_tail_mj=None if np.isnan(mj) else mj,
    )
