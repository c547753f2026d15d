"""Numbers as text: two or three significant figures, units scaled, unknown said as unknown."""

from collections.abc import Callable
from math import floor, log10

from testbed.privacy.intervals import Interval

UNKNOWN = "unknown"
ABSENT = "–"  # noqa: RUF001 - an en dash is what tables use for "does not apply"
THIN = "\u202f"

_UP = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float | None, digits: int = 3, absent: str = ABSENT) -> str:
    """Return ``value`` with ``digits`` significant figures and never an exponent."""
    if value is None:
        return absent
    if value == 0:
        return "0"
    decimals = digits - 1 - floor(log10(abs(value)))
    rounded = round(value, decimals)
    # 0.9996 rounds up to 1.00, which has one decimal fewer.
    if rounded != 0 and floor(log10(abs(rounded))) > floor(log10(abs(value))):
        decimals -= 1
    return f"{rounded:,.{max(0, decimals)}f}".replace("-", "\u2212")


def two_figures(value: float | None, absent: str = ABSENT) -> str:
    """Return ``value`` with two significant figures."""
    return significant(value, 2, absent)


def count(value: float | None, absent: str = ABSENT) -> str:
    """Return a whole number with thousands separators."""
    return absent if value is None else f"{value:,.0f}"


def scaled(value: float | None, unit: str = "", absent: str = ABSENT) -> str:
    """Return ``value`` with a decimal prefix before its unit: 1.29 M, 4.1 kB."""
    if value is None:
        return absent
    for factor, prefix in _UP:
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)}{THIN}{prefix}{unit}"
    text = count(value) if value == int(value) else significant(value)
    return f"{text}{THIN}{unit}" if unit else text


def size(value: float | None, absent: str = ABSENT) -> str:
    """Return a number of bytes: 4.1 kB."""
    return scaled(value, "B", absent)


def milliseconds(value: float | None, absent: str = ABSENT) -> str:
    """Return a time in ms, or in s from 10 s on."""
    if value is None:
        return absent
    if abs(value) >= 1e4:
        return f"{significant(value / 1e3)}{THIN}s"
    return f"{significant(value)}{THIN}ms"


def duration(seconds: float | None, absent: str = ABSENT) -> str:
    """Return a long time in the unit that reads best."""
    if seconds is None:
        return absent
    for factor, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * factor:
            return f"{significant(seconds / factor)}{THIN}{unit}"
    return f"{significant(seconds)}{THIN}s"


def millijoules(value: float | None, absent: str = UNKNOWN) -> str:
    """Return an energy given in mJ, in the unit that reads best."""
    if value is None:
        return absent
    for factor, unit in ((1e6, "kJ"), (1e3, "J"), (1.0, "mJ"), (1e-3, "µJ")):
        if abs(value) >= factor:
            return f"{significant(value / factor)}{THIN}{unit}"
    return f"{significant(value * 1e3)}{THIN}µJ" if value else f"0{THIN}mJ"


def joules(value: float | None, absent: str = UNKNOWN) -> str:
    """Return an energy given in J, in the unit that reads best."""
    return millijoules(None if value is None else 1000.0 * value, absent)


def dollars(value: float | None, absent: str = UNKNOWN) -> str:
    """Return an amount of US dollars with two figures, however small."""
    return absent if value is None else f"${significant(value, 2)}"


def percent(value: float | None, absent: str = ABSENT) -> str:
    """Return a share as per cent: one decimal, which is three figures at the usual 10 to 99."""
    return absent if value is None else f"{100 * value:.1f}{THIN}%"


def points(value: float | None, absent: str = ABSENT) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    if value is None:
        return absent
    sign = "+" if value > 0 else "\u2212" if value < 0 else ""
    return f"{sign}{100 * abs(value):.1f}"


def bounds(interval: Interval | None, fmt: Callable[[float | None], str] = significant) -> str:
    """Return ``low to high`` of an interval, or an empty text where it is unknown."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    if fmt in (percent, points):
        return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return f"{significant(interval.low)} to {significant(interval.high)}"


def times(value: float | None, reference: float | None) -> str:
    """Say how many times less or more ``value`` is than ``reference``; empty where unknown."""
    if value is None or reference is None or value <= 0 or reference <= 0:
        return ""
    ratio = value / reference
    if 0.995 <= ratio <= 1.005:
        return "equal"
    if ratio < 1:
        return f"{significant(1 / ratio, 2 if ratio > 0.1 else 3)}× less"  # noqa: RUF001
    return f"{significant(ratio, 2 if ratio < 10 else 3)}× more"  # noqa: RUF001
