"""What a user writes of a hypothesis -> the rows of Lβ = value.

    "Days = 0"                 one row
    "a - b", "2*a + b = 3"     sums of coefficients, compared with a number, 0 where none is given
    "Variety"                  a term of the formula: each of its coefficients
    {"a": 1, "b": -1}          one row by names; a table has a row each, its columns being names
    [..., ...]                 several of these, all at once
    array (k, p) or (p,)       a number for each coefficient

Names are those of ``fixef``; of other predictors "zi~x".  A coefficient that was left out because its column follows
from others may be named too: a row l over all columns, (l_kept, l_dropped), tells something that the data know if
l_dropped = l_kept A, where the columns left out are the kept ones times A (Searle 1971, §5.4).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import Design

SAME = 1e-7  # relative: a row that the kept columns tell
NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Restrictions:
    """``L`` (k, p) over the coefficients, ``value`` (k,), a label each; ``known`` (k,): the data tell this row."""

    L: np.ndarray
    value: np.ndarray
    labels: tuple[str, ...]
    known: np.ndarray


def estimable(kept: np.ndarray, dropped: np.ndarray, design: Design) -> np.ndarray:
    """Which rows over the kept columns of X (k, p) and those left out (k, d) the data tell."""
    if not dropped.shape[1]:
        return np.ones(len(kept), bool)
    gap = np.abs(dropped - kept[:, : len(design.columns)] @ design.spec.aliases).max(axis=1)
    return gap <= SAME * np.maximum(np.abs(kept).max(axis=1, initial=0.0), np.abs(dropped).max(axis=1))


def restrictions(hypotheses: Any, design: Design) -> Restrictions:
    """The rows of what the user wrote; see the module.

    Raises:
        ValueError: a name that is none, numbers that are too many or too few, text that is no sum, nothing at all.
    """
    names = (*design.coefficients, *design.dropped)
    rows = list(_rows(hypotheses, names, design))
    if not rows:
        raise ValueError("the hypothesis has no rows: give names, such as 'Days = 0', or numbers for each coefficient")
    L, p = np.stack([row for row, _, _ in rows]), len(design.coefficients)
    empty = [label for row, _, label in rows if not np.any(row)]
    if empty:
        raise ValueError(f"{empty[0]!r} restricts nothing: every coefficient is multiplied by zero")
    value, labels = np.array([v for _, v, _ in rows]), tuple(label for _, _, label in rows)
    return Restrictions(L[:, :p], value, labels, estimable(L[:, :p], L[:, p:], design))


def _rows(given: Any, names: tuple[str, ...], design: Design) -> Iterable[tuple[np.ndarray, float, str]]:
    if isinstance(given, str):
        known = design.fixed_terms
        for part in _apart(given, (*names, *known)):
            columns = known.get(part.strip(), ())
            if part.strip() not in names and columns:
                for name in columns:
                    yield _unit(name, names), 0.0, name
            else:
                yield *_parsed(part, names), part.strip()
    elif isinstance(given, pd.DataFrame):
        for label, row in given.iterrows():
            yield _named(dict(row), names), 0.0, str(label)
    elif isinstance(given, pd.Series):
        yield from _rows(given.to_dict(), names, design)
    elif isinstance(given, Mapping):
        yield _named(given, names), 0.0, " + ".join(f"{v:g}*{k}" for k, v in given.items()).replace("+ -", "- ")
    elif isinstance(given, list | tuple) and any(isinstance(g, str | Mapping) for g in given):
        for each in given:
            yield from _rows(each, names, design)
    else:
        yield from _numbers(given, names, design)


def _numbers(given: Any, names: tuple[str, ...], design: Design) -> Iterable[tuple[np.ndarray, float, str]]:
    L = np.atleast_2d(np.asarray(given, float))
    p, mean = len(design.coefficients), len(design.columns)
    if L.ndim != 2 or L.shape[1] not in (p, mean):
        shown = f"{mean}, one for each of {', '.join(design.columns[:6])}" + (", ..." if mean > 6 else "")
        raise ValueError(f"L has {L.shape[-1]} numbers in a row and must have {shown}")
    if not np.all(np.isfinite(L)):
        raise ValueError("L must hold finite numbers")
    for row in L:
        whole = np.concatenate([row, np.zeros(len(names) - len(row))])
        parts = [(v, n) for v, n in zip(row, names, strict=False) if v]
        text = " ".join(f"{'-' if v < 0 else '+'} {'' if abs(v) == 1 else f'{abs(v):.4g}*'}{n}" for v, n in parts)
        yield whole, 0.0, text.removeprefix("+ ")


def _unit(name: str, names: tuple[str, ...]) -> np.ndarray:
    return (np.arange(len(names)) == names.index(name)).astype(float)


def _named(given: Mapping[Any, Any], names: tuple[str, ...]) -> np.ndarray:
    row = np.zeros(len(names))
    for name, number in given.items():
        if name not in names:
            raise ValueError(_unknown(str(name), names))
        row[names.index(name)] = float(number)
    return row


def _apart(text: str, names: tuple[str, ...]) -> list[str]:
    """The text at its commas, but for those inside a name, such as poly(x, 2)1."""
    parts, begin, at = [], 0, 0
    while at < len(text):
        name = _name_at(text, at, names)
        if text[at] == "," and not name:
            parts.append(text[begin:at])
            begin = at + 1
        at += len(name) if name else 1
    return [p for p in [*parts, text[begin:]] if p.strip()]


def _name_at(text: str, at: int, names: tuple[str, ...]) -> str | None:
    """The longest name that stands here, and does not go on as another word."""
    if at and text[at].isalnum() and (text[at - 1].isalnum() or text[at - 1] in "._"):
        return None
    found = [n for n in names if text.startswith(n, at)]
    whole = [n for n in found if not (n[-1].isalnum() and text[at + len(n) : at + len(n) + 1].isalnum())]
    return max(whole, key=len, default=None)


def _tokens(text: str, names: tuple[str, ...]) -> list[str | float]:
    """Names, numbers and the signs + - * / =."""
    out: list[str | float] = []
    at = 0
    while at < len(text):
        name, number = _name_at(text, at, names), NUMBER.match(text, at)
        if name:
            out.append(name)
            at += len(name)
        elif number:
            out.append(float(number[0]))
            at = number.end()
        elif text[at] in "+-*/=":
            out.append(text[at])
            at += 1
        elif text[at].isspace():
            at += 1
        else:
            raise ValueError(_unknown(re.split(r"[\s+*=,-]", text[at:])[0], names))
    return out


def _parsed(text: str, names: tuple[str, ...]) -> tuple[np.ndarray, float]:
    """A sum of multiples of names and numbers, or two sides of an equation."""
    tokens = _tokens(text, names)
    sides: list[list[str | float]] = [[]]
    for token in tokens:
        sides.append([]) if token == "=" else sides[-1].append(token)
    if len(sides) > 2:
        raise ValueError(f"{text!r} has more than one =: write several hypotheses as a list")
    total, constant = np.zeros(len(names)), 0.0
    for side, sign in zip(sides, (1.0, -1.0), strict=False):
        row, number = _sum(side, names, text)
        total, constant = total + sign * row, constant - sign * number
    return total, constant


def _sum(tokens: list[str | float], names: tuple[str, ...], text: str) -> tuple[np.ndarray, float]:
    """The multiples of the names, and what is left."""
    row, constant, at = np.zeros(len(names)), 0.0, 0
    while at < len(tokens) or not at:
        factor, name = 1.0, None
        while at < len(tokens) and tokens[at] in ("+", "-"):
            factor *= -1.0 if tokens[at] == "-" else 1.0
            at += 1
        due, divide = True, False  # whether a name or a number must follow, and whether it divides
        while at < len(tokens) and tokens[at] not in ("+", "-"):
            token = tokens[at]
            if token in ("*", "/"):
                if due:
                    break
                due, divide = True, token == "/"
            elif isinstance(token, float) and due:
                factor, due = (factor / token if divide else factor * token), False
            elif isinstance(token, str) and name is None and not divide:
                name, due = token, False
            else:
                break
            at += 1
        if due or (at < len(tokens) and tokens[at] not in ("+", "-")):
            after = "" if due and at >= len(tokens) else f" at {tokens[at]!r}"
            raise ValueError(f"cannot read {text!r}{after}: write sums such as 'a - b', '2*a + b = 3'")
        if name is None:
            constant += factor
        else:
            row += factor * _unit(name, names)
    return row, constant


def _unknown(name: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    shown = ", ".join(repr(n) for n in names[:12]) + (", ..." if len(names) > 12 else "")
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"there is no coefficient {name!r}{guess} there are {shown or 'none'}"
