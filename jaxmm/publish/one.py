"""A fit -> the Sheet of its table: a row per coefficient with its errors and test, then what is random, then counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxmm._text import number_text
from jaxmm.fitted import Fitted
from jaxmm.publish import numbers
from jaxmm.publish.parts import Content, Entry, Errors, Key, Statistic, content, statistic_text
from jaxmm.publish.sheet import Cell, Number, Part, Row, Sheet, Symbol


def sheet(
    fit: Fitted,
    *,
    digits: int = 3,
    level: float = 0.95,
    ddf: str | None = None,
    vcov: Any = None,
    cluster: Any = None,
    stats: Sequence[str] | Mapping[str, Statistic] | None = None,
    exact_p: bool = False,
    names: Mapping[str, str] | None = None,
    caption: str = "",
    notes: bool = True,
) -> Sheet:
    """The table of a fit, for ``latex``, ``html`` and ``markdown`` to write.

    Args:
        digits: significant digits of the standard errors; estimates have as many decimals.
        level: of the intervals.
        ddf, vcov, cluster: degrees of freedom and covariance, as ``Fit.coef_table`` takes them.
        stats: what stands below: "nobs", "groups", "loglik", "aic" (these by default), "bic", "deviance", "df", "r2",
            "icc", "method", "family", "response"; or a mapping of labels to functions of the fit.
        exact_p: p to three digits however small it is, where "<0.001" is printed else.
        names: other names for terms, effects and factors.
        notes: whether to say below how the tests were made, and what is wrong with the fit.

    Raises:
        ValueError: digits below 1, a level outside 0 to 1, an unknown statistic, ddf or vcov.
    """
    check_digits(digits)
    found = content(fit, stats, Errors(ddf, vcov, cluster), level)
    names = names or {}
    t = fit.model.likelihood.statistic
    with_df = any(math.isfinite(e.df) for e in found.fixed.values())
    head = ("Estimate", "SE", *(["df"] if with_df else []), Symbol(t), Symbol("p"), f"{100 * level:g}% CI")
    blank: tuple[Cell, ...] = ("",) * (len(head) - 1)
    parts = _fixed(found, digits, with_df, exact_p, names)
    rows = [Row(random_name(k, names), (random_cell(found, k, digits), *blank)) for k in found.random]
    parts.append(Part(tuple(rows), "Random effects"))
    rows = [Row(name, (statistic_cell(name, x, digits), *blank)) for name, x in found.statistics.items()]
    parts += [Part(tuple(rows))] if rows else []
    about = [f"{fit.model.likelihood.kind}: {fit.formula}", found.tests, *found.notes]
    return Sheet(head, tuple(parts), tuple(sentence(n) for n in about if n) if notes else (), caption)


def _fixed(found: Content, digits: int, with_df: bool, exact: bool, names: Mapping[str, str]) -> list[Part]:
    parts = []
    for title in dict.fromkeys(s for s, _ in found.fixed):
        own = {name: e for (s, name), e in found.fixed.items() if s == title}
        places = numbers.several_decimals([e.estimate for e in own.values()], [e.se for e in own.values()], digits)
        rows = [
            Row(renamed(name, names), _cells(e, k, digits, with_df, exact))
            for (name, e), k in zip(own.items(), places, strict=True)
        ]
        parts.append(Part(tuple(rows), title or "Fixed effects"))
    return parts


def _cells(e: Entry, places: int, digits: int, with_df: bool, exact: bool) -> tuple[Cell, ...]:
    estimate, se, lower, upper = (numbers.text(x, places, digits, e.se) for x in (e.estimate, e.se, e.lower, e.upper))
    df = ("" if math.isnan(e.df) else number_text(e.df, ".1f"),) if with_df else ()
    statistic = "" if math.isnan(e.statistic) else number_text(e.statistic, ".2f")
    shown = [estimate, se, *df, statistic, numbers.p_text(e.p, exact)]
    return (*map(numbers.number, shown), numbers.interval(lower, upper))


def check_digits(digits: int) -> None:
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 10:
        raise ValueError(f"digits must be a whole number from 1 to 10, not {digits!r}")


def random_cell(found: Content, key: Key, digits: int) -> Cell:
    """A standard deviation to a digit more than a standard error, a correlation with ``digits`` decimals."""
    value = found.random[key].estimate
    if key in found.correlations:
        return numbers.number("" if math.isnan(value) else number_text(value, f".{digits}f"))
    return numbers.number(numbers.text(value, numbers.decimals(value, math.nan, digits), digits))


def random_name(key: Key, names: Mapping[str, str]) -> str:
    """The factor, and what of it; effects and factors under their other names."""
    group, name = key
    kind, space, rest = name.partition(" ")
    if space and group:
        name = f"{kind} {', '.join(renamed(e, names) for e in rest.split(', '))}"
    return f"{renamed(group, names)}: {name}" if group else renamed(name, names)


def statistic_cell(label: str, value: Any, digits: int) -> Cell:
    shown = statistic_text(label, value, digits)
    return shown if isinstance(value, str) or not shown else Number((shown,))


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Its other name; else its own, without the back-quotes of a formula."""
    return str(names[name]) if name in names else name.replace("`", "")


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."
