"""Tables of means and of contrasts as text, a part for each group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text


def level_text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.7g}"


def named_level(name: str, value: Any) -> str:
    """A level; with its column's name where it looks like a number."""
    text = level_text(value)
    return f"{name}{text}" if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text) else text


def _cells(frame: Any) -> list[list[str]]:
    columns = []
    for name in frame.columns:
        values = frame[name]
        if not pd.api.types.is_numeric_dtype(values):
            columns.append([str(v) for v in values])
        elif name == "p":
            columns.append(_text.justify_right([_p(v) for v in values]))
        elif name == "df":
            columns.append(_text.number_column(np.round(values, 2), 6))
        else:
            columns.append(_text.number_column(values, 4))
    return [list(row) for row in zip(*columns, strict=True)]


def _p(value: float) -> str:
    return "NaN" if np.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def parts(
    header: Sequence[str], frame: pd.DataFrame, by: Sequence[str], notes: Sequence[str]
) -> list[str | _text.Grid]:
    """The header, a table for each group of ``by``, the notes; of very many rows the first."""
    shown, first = [c for c in frame.columns if c not in by], frame.iloc[: _text.MOST_ROWS]
    rows = _cells(first[shown])
    keys = list(zip(*(first[b] for b in by), strict=True)) if by else [()] * len(first)
    right = [pd.api.types.is_numeric_dtype(frame[c]) for c in shown]
    out: list[list[str | _text.Grid]] = [[*header]] if header else []
    for key in dict.fromkeys(keys):
        own = [r for r, k in zip(rows, keys, strict=True) if k == key]
        about = [", ".join(f"{b} = {level_text(v)}" for b, v in zip(by, key, strict=True))] if by else []
        out.append([*about, _text.Grid([shown, *own], right)])
    more = _text.more_rows(len(frame) - len(first), ": frame")
    if more:
        out.append([*more])
    if notes:
        out.append([*notes])
    return [p for k, part in enumerate(out) for p in ([""] * (k > 0) + part)]
