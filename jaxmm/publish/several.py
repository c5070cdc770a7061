"""Several fits -> one table: a column each, the terms that any of them has as rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._keywords import known_keywords
from jaxmm._text import number_text
from jaxmm.fitted import Fitted
from jaxmm.publish import numbers
from jaxmm.publish.hypertext import html
from jaxmm.publish.latex import latex
from jaxmm.publish.markdown import markdown
from jaxmm.publish.one import check_digits, random_cell, random_name, renamed, sentence, statistic_cell
from jaxmm.publish.parts import CRITERIA, DEFAULT, Content, Entry, Errors, Key, Statistic, content
from jaxmm.publish.plain import plain
from jaxmm.publish.sheet import Cell, Part, Row, Sheet, Symbol

_STARS = (0.05, 0.01, 0.001)
_SHOWN = {  # what show= may be: the head of its column, and what is said of it
    "se": ("SE", "Standard errors"),
    "interval": ("{level:g}% CI", "{level:g}% confidence intervals"),
    "statistic": ("Statistic", "Estimates over their standard errors"),
    "p": ("p", "p-values"),
}


@dataclass(frozen=True)
class _Style:
    """How the numbers are set: see ``table``."""

    column: bool
    show: str
    stars: tuple[float, ...]
    digits: int
    level: float
    names: Mapping[str, str]


class ModelTable:
    """Several fits side by side: ``to_latex()``, ``to_html()``, ``to_markdown()``, and as numbers ``frame``.

    ``frame`` has a row per (part, section, term) and the columns (label, quantity); ``sheet`` is what is printed.

    Example:
        >>> mm.table({"REML": fit}).frame["REML", "estimate"].loc["fixed"].round(2).tolist()
        [251.41, 10.47]
    """

    def __init__(self, frame: pd.DataFrame, sheet: Sheet):
        self.frame, self.sheet = frame, sheet

    def to_latex(self, label: str = "") -> str:
        """A ``tabular`` with the rules of the package booktabs; within a ``table`` where there is a caption or a
        ``label``."""
        return latex(self.sheet, label)

    def to_html(self) -> str:
        """A ``<table>`` that needs no style sheet."""
        return html(self.sheet)

    def to_markdown(self) -> str:
        """A pipe table."""
        return markdown(self.sheet)

    def __repr__(self) -> str:
        return plain(self.sheet)

    def _repr_html_(self) -> str:
        return self.to_html()


@known_keywords({"models": "the fits come first", "model_names": "labels=", "stat": "stats=", "p": "show='p'"})
def table(
    fits: Fitted | Iterable[Fitted] | Mapping[str, Fitted],
    labels: Sequence[str] | None = None,
    *,
    stats: Sequence[str] | Mapping[str, Statistic] | None = None,
    se: str = "below",
    show: str = "se",
    stars: bool | Sequence[float] = False,
    digits: int = 3,
    level: float = 0.95,
    ddf: Any = None,
    vcov: Any = None,
    cluster: Any = None,
    terms: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    random: bool = True,
    caption: str = "",
    notes: bool = True,
) -> ModelTable:
    """A table of several fits for a paper: coefficients, below a rule what is random, then counts and criteria.

    Args:
        fits: in the order of the columns; or a mapping of labels to fits.
        labels: of the columns; "(1)", "(2)" … by default.
        stats: what stands below, as ``Fit.to_latex`` takes it; what differs between the fits among response, family
            and way of fitting comes before the default ones.
        se: where it stands, "below" the estimate or in a "column" of its own.
        show: what stands there: "se", "interval", "statistic" (t or z) or "p".
        stars: True for *, **, *** below 0.05, 0.01, 0.001; or levels of one's own. None by default: p and intervals
            say more.
        digits: significant digits of the standard errors; estimates have as many decimals.
        level: of the intervals.
        ddf, vcov, cluster: as ``Fit.coef_table`` takes them; or a list with one for each fit.
        terms: the coefficients to show, in this order; by default all.
        names: other names for terms, effects and factors.
        random: whether standard deviations and correlations are shown.
        caption: above the table; in LaTeX it makes the ``tabular`` a ``table``.
        notes: whether to say below what stands in parentheses, how tests were made, and what is wrong with a fit.

    Raises:
        ValueError, TypeError: an argument that is none of these, or what is no fit; the message names it.

    Example:
        >>> mm.table([fit, fit.refit_ml()], labels=["REML", "ML"], stars=True).to_latex().count("Days") > 0
        True
    """
    found, labels = _fits(fits, labels)
    style = _Style(_column(se), _shown(show), _levels(stars), digits, level, dict(names or {}))
    check_digits(digits)
    stats = _differing(found) + list(DEFAULT) if stats is None else stats
    errors = [_each(x, len(found), name) for name, x in (("ddf", ddf), ("vcov", vcov), ("cluster", cluster))]
    each = zip(found, *errors, strict=True)
    columns = [content(fit, stats, Errors(*own), level) for fit, *own in each]
    fixed = _chosen(_union([list(c.fixed) for c in columns]), terms)
    parts = _fixed_parts(columns, fixed, style)
    if random:
        parts.append(Part(tuple(_random_rows(columns, style)), "Random effects"))
    rows = _statistic_rows(columns, style)
    parts += [Part(tuple(rows))] if rows else []
    about = tuple(map(sentence, _notes(found, labels, columns, style))) if notes else ()
    head = tuple(x for _ in labels for x in ("Estimate", _beside_head(style))) if style.column else tuple(labels)
    spans = tuple((label, 2) for label in labels) if style.column else ()
    return ModelTable(_frame(labels, columns, fixed), Sheet(head, tuple(parts), about, caption, spans))


# ---------------------------------------------------------------- arguments
def _fits(fits: Any, labels: Any) -> tuple[list[Fitted], list[str]]:
    if isinstance(fits, Mapping):
        if labels is not None:
            raise ValueError("labels: the mapping of fits has them already; leave labels= out")
        fits, labels = list(fits.values()), list(fits)
    found = [fits] if isinstance(fits, Fitted) else list(fits)
    if not found:
        raise ValueError("fits: give at least one fit")
    for k, fit in enumerate(found):
        if not isinstance(fit, Fitted):
            raise TypeError(
                f"fits: the one at place {k} is a {type(fit).__name__}, not a Fit; lmm() and glmm() make them"
            )
    shown = (
        [f"({k + 1})" for k in range(len(found))] if labels is None else [labels] if isinstance(labels, str) else labels
    )
    shown = list(map(str, shown))
    if len(shown) != len(found):
        raise ValueError(f"labels: {len(shown)} of them for {len(found)} fits")
    return found, shown


def _column(se: str) -> bool:
    if se not in ("below", "column"):
        raise ValueError(f"se must be 'below' or 'column', not {se!r}; show= says what stands there")
    return se == "column"


def _shown(show: str) -> str:
    if show not in _SHOWN:
        raise ValueError(f"show must be one of {', '.join(map(repr, _SHOWN))}, not {show!r}")
    return show


def _levels(stars: Any) -> tuple[float, ...]:
    if isinstance(stars, bool | np.bool_):
        return _STARS if stars else ()
    levels = tuple(sorted(map(float, stars), reverse=True))
    if not all(0 < x < 1 for x in levels):
        raise ValueError(f"stars must be True, False or levels between 0 and 1, not {stars!r}")
    return levels


def _each(value: Any, n: int, name: str) -> list:
    """One for all, or a list of one for each."""
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name}: {len(value)} of them for {n} fits")
    return list(value)


def _differing(fits: Sequence[Fitted]) -> list[str]:
    """Of response, family and way of fitting those in which the fits differ."""
    about = {
        "response": {f.model.design.response for f in fits},
        "family": {(f.family.name, f.family.link.name) for f in fits},
        "method": {f.model.likelihood.kind for f in fits},
    }
    return [name for name, values in about.items() if len(values) > 1]


def _union(lists: Sequence[Sequence[Any]]) -> list:
    """Every key once; a new one after the one that it follows in its own list, or before the first known one there."""
    out: list = []
    for keys in lists:
        at = next((out.index(key) for key in keys if key in out), len(out))
        for key in keys:
            if key not in out:
                out.insert(at, key)
            at = out.index(key) + 1
    return out


def _chosen(keys: list[Key], terms: Sequence[str] | None) -> list[Key]:
    if terms is None:
        return keys
    terms = [terms] if isinstance(terms, str) else list(terms)
    there = {name for _, name in keys}
    unknown = [t for t in terms if t not in there]
    if unknown:
        raise ValueError(f"terms: no fit has {unknown[0]!r}; there are {', '.join(map(repr, sorted(there)))}")
    sections = dict.fromkeys(s for s, _ in keys)
    return [(s, t) for s in sections for t in terms if (s, t) in keys]


# ---------------------------------------------------------------- rows
def _fixed_parts(columns: Sequence[Content], keys: Sequence[Key], style: _Style) -> list[Part]:
    parts = []
    for title in dict.fromkeys(s for s, _ in keys):
        rows: list[Row] = []
        for key in keys:
            if key[0] == title:
                rows += _coefficient([c.fixed.get(key) for c in columns], renamed(key[1], style.names), style)
        parts.append(Part(tuple(rows), title or "Fixed effects"))
    return parts


def _coefficient(entries: Sequence[Entry | None], name: str, style: _Style) -> list[Row]:
    """One row, or two with what stands below the estimates."""
    there = [e for e in entries if e is not None]
    own = numbers.several_decimals([e.estimate for e in there], [e.se for e in there], style.digits)
    places = dict(zip(map(id, there), own, strict=True))
    estimates: list[Cell] = []
    besides: list[Cell] = []
    for e in entries:
        if e is None:
            estimates.append("")
            besides.append("")
            continue
        shown = numbers.text(e.estimate, places[id(e)], style.digits, e.se)
        estimates.append(numbers.number(shown, stars=numbers.stars(e.p, style.stars)))
        besides.append(_beside(e, places[id(e)], style))
    if style.column:
        return [Row(name, tuple(x for pair in zip(estimates, besides, strict=True) for x in pair))]
    return [Row(name, tuple(estimates)), Row("", tuple(besides))]


def _beside(e: Entry, places: int, style: _Style) -> Cell:
    brackets = ("", "") if style.column else ("(", ")")
    if style.show == "interval":
        return numbers.interval(*(numbers.text(x, places, style.digits, e.se) for x in (e.lower, e.upper)))
    if style.show == "se":
        return numbers.number(numbers.text(e.se, places, style.digits, e.se), *brackets)
    if style.show == "p":
        return numbers.number(numbers.p_text(e.p, False), *brackets)
    return numbers.number("" if math.isnan(e.statistic) else number_text(e.statistic, ".2f"), *brackets)


def _random_rows(columns: Sequence[Content], style: _Style) -> list[Row]:
    """Factor by factor, the residual and constants last."""
    keys = _union([list(c.random) for c in columns])
    keys = [k for g in sorted(dict.fromkeys(g for g, _ in keys), key=lambda g: not g) for k in keys if k[0] == g]
    return [
        Row(
            random_name(key, style.names),
            _wide([random_cell(c, key, style.digits) if key in c.random else "" for c in columns], style),
        )
        for key in keys
    ]


def _statistic_rows(columns: Sequence[Content], style: _Style) -> list[Row]:
    rows = []
    for name in _union([list(c.statistics) for c in columns]):
        cells = [statistic_cell(name, c.statistics.get(name), style.digits) for c in columns]
        rows.append(Row(name, _wide(cells, style)))
    return rows


def _wide(cells: Sequence[Cell], style: _Style) -> tuple[Cell, ...]:
    return tuple(x for c in cells for x in ((c, "") if style.column else (c,)))


def _beside_head(style: _Style) -> str:
    head = _SHOWN[style.show][0].format(level=100 * style.level)
    return Symbol(head) if style.show == "p" else head


# ---------------------------------------------------------------- below, and as numbers
def _notes(fits: Sequence[Fitted], labels: Sequence[str], columns: Sequence[Content], style: _Style) -> list[str]:
    notes = []
    if not style.column:
        where = "brackets" if style.show == "interval" else "parentheses"
        notes.append(f"{_SHOWN[style.show][1].format(level=100 * style.level)} in {where}")
    tests = [c.tests for c in columns]
    if style.stars or style.show in ("interval", "p"):
        notes += [tests[0]] if len(set(tests)) == 1 else [f"{l}: {t}" for l, t in zip(labels, tests, strict=True)]
    if style.stars:
        notes.append(", ".join(f"{'*' * (k + 1)} p < {level:g}" for k, level in enumerate(style.stars)))
    for label, c in zip(labels, columns, strict=True):
        notes += [f"{label}: {n}" for n in c.notes]
    return [n for n in (*notes, *_comparable(fits, columns)) if n]


def _comparable(fits: Sequence[Fitted], columns: Sequence[Content]) -> list[str]:
    """Why the criteria that are shown must not be compared, if so."""
    if len(fits) < 2 or not any(CRITERIA & set(c.statistics) for c in columns):
        return []
    why = []
    if len({f.reml for f in fits}) > 1:
        why.append("some fits are by REML and some by maximum likelihood")
    elif fits[0].reml and len({tuple(map(str, f.fixef.index)) for f in fits}) > 1:
        why.append("the fits are by REML with different fixed effects")
    if len({f.nobs for f in fits}) > 1:
        why.append("the numbers of observations differ")
    if len({f.model.design.response for f in fits}) > 1:
        why.append("the responses differ")
    return [f"likelihoods and criteria are not comparable: {', '.join(why)}"] if why else []


def _frame(labels: Sequence[str], columns: Sequence[Content], fixed: Sequence[Key]) -> pd.DataFrame:
    """Numbers alone: statistics that are texts are left out."""
    quantities = [f.name for f in fields(Entry)]
    keys = [("fixed", *k) for k in fixed] + [("random", *k) for k in _union([list(c.random) for c in columns])]
    values = {c: {("fixed", *k): e for k, e in c.fixed.items()} for c in columns}
    for c in columns:
        values[c] |= {("random", *k): e for k, e in c.random.items()}
        values[c] |= {("fit", "", s): Entry(float(x)) for s, x in c.statistics.items() if not isinstance(x, str | None)}
    keys += _union([[k for k in values[c] if k[0] == "fit"] for c in columns])
    nothing = Entry(math.nan)
    data = [[getattr(values[c].get(k, nothing), q) for c in columns for q in quantities] for k in keys]
    index = pd.MultiIndex.from_tuples(keys, names=["part", "section", "term"])
    header = pd.MultiIndex.from_tuples([(l, q) for l in labels for q in quantities], names=["fit", "quantity"])
    return pd.DataFrame(data, index, header, dtype=float)
