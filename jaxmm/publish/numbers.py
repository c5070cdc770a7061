"""Numbers -> the digits that stand in a paper.

An estimate has as many decimals as its standard error s needs for ``digits`` significant digits,

    digits − 1 − ⌊log₁₀ s⌋        251.405 with s = 6.825: 251.41 (6.82) for 3 digits,

so what is printed does not depend on the unit but for the place of the point; where that would take more than 6
decimals, or 7 digits before the point, both are in scientific notation, the estimate to the same place as s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxmm._text import number_text, p_value
from jaxmm.publish.sheet import Cell, Number

_DECIMALS, _LARGEST = 6, 1e7
_MANTISSA = 12


def exponent(value: float, digits: int) -> int:
    """⌊log₁₀|value|⌋ after rounding to so many significant digits; of zero, and of what is no number, 0."""
    return int(f"{value:.{digits - 1}e}".split("e")[1]) if math.isfinite(value) and value else 0


def decimals(estimate: float, se: float, digits: int) -> int:
    """Decimals by the standard error; without one by the estimate itself, to a digit more."""
    if math.isfinite(se) and se > 0:
        return max(0, digits - 1 - exponent(se, digits))
    return max(0, digits - exponent(estimate, digits + 1)) if estimate and math.isfinite(estimate) else digits


def several_decimals(estimates: Sequence[float], ses: Sequence[float], digits: int) -> list[int]:
    """Of estimates side by side, or below each other: one more where a neighbour has that, as 9.970 ± 1.020 beside
    10.312 ± 0.981."""
    own = [decimals(e, s, digits) for e, s in zip(estimates, ses, strict=True)]
    return [k + (k + 1 in own) for k in own]


def text(value: float, places: int, digits: int, unit: float = math.nan) -> str:
    """A number with so many decimals; scientific, to the place of ``unit`` (its standard error), where these are many.

    "" for what is not there, None or NaN.
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return number_text(value, "f")
    size = max(abs(value), unit if math.isfinite(unit) else 0.0)
    if places > _DECIMALS or size >= _LARGEST:
        known = math.isfinite(unit) and unit > 0
        place = exponent(unit, digits) - digits + 1 if known else exponent(value, digits + 1) - digits
        return number_text(value, f".{min(_MANTISSA, max(0, exponent(value, digits) - place))}e") if value else "0"
    return number_text(value, f".{places}f")


def number(shown: str, opening: str = "", closing: str = "", stars: int = 0) -> Cell:
    return Number((shown,), opening, closing, stars) if shown else ""


def interval(lower: str, upper: str) -> Cell:
    return Number((lower, upper), "[", "]") if lower and upper else ""


def p_text(p: float, exact: bool) -> str:
    """A p-value by three decimals, "<0.001" below; or by three digits, whatever its size, where ``exact``."""
    if math.isnan(p):
        return ""
    return p_value(p) if exact else "<0.001" if p < 0.001 else f"{p:.3f}"


def stars(p: float, levels: Sequence[float]) -> int:
    """How many of the levels p is below; none where there is no p."""
    return sum(p < level for level in levels)
