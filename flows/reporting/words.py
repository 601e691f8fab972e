"""Numbers, durations and dates as a reader expects them."""

import math
from datetime import datetime

from flows.reporting.sections import Value

# Not strftime's %B, which follows the locale of whoever runs this.
_MONTHS = ("January", "February", "March", "April", "May", "June",
           "July", "August", "September", "October", "November", "December")  # fmt: skip


def number(value: float) -> str:
    """A number with four significant digits, thousands parted by a thin space: `0.01234`, `123 456`, `1.5e-07`."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "\N{MINUS SIGN}∞"}.get(value, "not a number")
    if value == round(value) and abs(value) < 1e9:
        text = f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    elif abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(value) < 1e9 else f"{value:.3e}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def shown(value: Value) -> str:
    """Any cell of a table: an absent value is an en dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else number(value)


def duration(seconds: float) -> str:
    """Two units at most: `48 s`, `6 min 12 s`, `3 h 05 min`, `2 d 4 h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "\N{EN DASH}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def date(moment: datetime) -> str:
    """`20 November 2026, 20:46 UTC`: the same words wherever it is read."""
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}, {moment:%H:%M}{zone}"
