"""Numbers and names -> the text of printed tables.

A column of numbers is printed with as many decimals as its most demanding entry needs to show `digits`
significant digits, trailing zeros not counted: the columns of R's tables. Where that would be wider than
scientific notation, the column is printed in scientific notation.
"""

import html
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

WIDTH = 80  # columns of a page of text
MOST_ROWS = 100  # of a printed table
LEAST_P = 1e-16  # a p-value below it is told from zero by no arithmetic


def number_column(values: Sequence[float] | np.ndarray, digits: int) -> list[str]:
    """The numbers as texts of one width; NaN is "NaN"."""
    x = np.asarray(values, dtype=float).ravel() + 0.0  # + 0.0: no negative zero
    finite = x[np.isfinite(x)]
    decimals, most = 0, 1
    for v in finite:
        mantissa, exponent = f"{v:.{digits - 1}e}".split("e")
        shown = len(mantissa.lstrip("-").replace(".", "").rstrip("0")) or 1
        decimals = max(decimals, shown - 1 - int(exponent)) if v else decimals
        most = max(most, shown)
    fixed = [number_text(v, f".{decimals}f") for v in x]
    scientific = [number_text(v, f".{most - 1}e") for v in x]
    best = fixed if max(map(len, fixed), default=0) <= max(map(len, scientific), default=0) else scientific
    return justify_right(best)


def fixed_column(values: Sequence[float] | np.ndarray, decimals: int) -> list[str]:
    """The numbers with so many decimals, as texts of one width."""
    return justify_right([number_text(v, f".{decimals}f") for v in np.asarray(values, dtype=float).ravel()])


def justify_right(texts: Sequence[str]) -> list[str]:
    width = max(map(len, texts), default=0)
    return [t.rjust(width) for t in texts]


def zap(values: Sequence[float] | np.ndarray, digits: int) -> np.ndarray:
    """The numbers rounded to so many digits of the largest, so that a rounding error prints as zero."""
    x = np.asarray(values, dtype=float)
    largest = np.max(np.abs(x[np.isfinite(x)]), initial=0.0)
    return np.round(x, max(0, digits - int(np.ceil(np.log10(largest))))) if largest > 0 else x


def align(rows: Sequence[Sequence[str]], right: Sequence[bool], gap: str = " ") -> list[str]:
    """The lines of a table; the columns flagged in `right` are set flush right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(right))]
    return [
        gap.join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    ]


class Grid(NamedTuple):
    """Cells by row, the first row a header, which columns are set flush right, and how many of them are names."""

    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    names: int = 1

    def lines(self) -> list[str]:
        """One below the other where the columns have no room beside each other, each with the names."""
        out: list[str] = []
        for k, block in enumerate(self._blocks()):
            own = [[row[c] for c in block] for row in self.rows]
            out += [""] * (k > 0) + align(own, [self.right[c] for c in block], gap="  ")
        return out

    def _blocks(self) -> list[list[int]]:
        widths = [2 + max(len(row[k]) for row in self.rows) for k in range(len(self.right))]
        names = list(range(self.names))
        blocks = [list(names)]
        for k in range(self.names, len(widths)):
            if len(blocks[-1]) > self.names and sum(widths[c] for c in [*blocks[-1], k]) - 2 > WIDTH:
                blocks.append(list(names))
            blocks[-1].append(k)
        return blocks

    def html(self) -> str:
        def cell(tag: str, text: str, right: bool) -> str:
            side = "right" if right else "left"
            return f'<{tag} style="text-align:{side};padding:0.15em 0.6em">{html.escape(text.strip())}</{tag}>'

        head, *body = ["".join(cell("td" if k else "th", *c) for c in zip(row, self.right, strict=True))
                       for k, row in enumerate(self.rows)]  # fmt: skip
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


class Printed:
    """What prints as text and, in a notebook, as HTML: `_parts`, lines of text and tables, from top to bottom."""

    def _parts(self) -> Sequence[str | Grid]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(self._parts())

    def _repr_html_(self) -> str:
        return as_html(self._parts())


def as_text(parts: Sequence[str | Grid]) -> str:
    return "\n".join(line for p in parts for line in (wrapped(p) if isinstance(p, str) else p.lines()))


def as_html(parts: Sequence[str | Grid]) -> str:
    return "".join(paragraph(p) if isinstance(p, str) else p.html() for p in parts if p)


def wrapped(text: str) -> list[str]:
    """A sentence in lines of WIDTH columns, those after the first set in by two."""
    inner = " " * (2 + len(text) - len(text.lstrip()))
    return textwrap.wrap(text, WIDTH, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False) or [""]


def frame_parts(frame: pd.DataFrame, none: str = "NaN", most: int = MOST_ROWS) -> list[str | Grid]:
    """A table of numbers, with five digits, and words; ``none`` is written for NaN; of a long one the first rows."""
    shown, columns = frame.iloc[:most], []
    for k, name in enumerate(frame.columns):
        values = shown.iloc[:, k]
        if pd.api.types.is_float_dtype(values):
            write = p_value if name == "p" else lambda x: number_text(x, ".5g")
            columns.append([none if np.isnan(v) else write(v) for v in values])
        else:
            columns.append(list(map(str, values)))
    header = ["" if frame.index.name is None else str(frame.index.name), *map(str, frame.columns)]
    rows = [header, *([str(label), *cells] for label, *cells in zip(shown.index, *columns, strict=True))]
    return [Grid(rows, [False] + [True] * len(columns)), *more_rows(len(frame) - most)]


def more_rows(count: int, where: str = "") -> list[str]:
    return [f"... {count:,} more row{'s' if count > 1 else ''}{where}"] if count > 0 else []


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table whose first `names` columns are names and whose others are numbers."""
    return Grid([header, *rows], [k >= names for k in range(len(header))]).html()


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def abbreviate(names: Sequence[str], length: int) -> list[str]:
    """Names cut to about `length` characters, all different if they were.

    Spaces go first, then lower-case vowels from the right, then lower-case letters from the right; the first
    character of a word stays, and so does everything that is not a lower-case letter.
    """
    if len(set(names)) < len(names):
        return [_shorten(n, length) for n in names]
    short = [_shorten(n, length) for n in names]
    longest = max(map(len, names), default=0)
    while len(set(short)) < len(short) and length < longest:
        length += 1
        twice = {s for s in short if short.count(s) > 1}
        short = [_shorten(n, length) if s in twice else s for n, s in zip(names, short, strict=True)]
    return short


def _shorten(name: str, length: int) -> str:
    name = name.strip()
    if len(name) <= length:
        return name
    first = [k == 0 or name[k - 1] == " " for k in range(len(name))]
    letters = [(c, f) for c, f in zip(name, first, strict=True) if c != " "]
    for removable in ("aeiou", "abcdefghijklmnopqrstuvwxyz"):
        for k in reversed(range(len(letters))):
            if len(letters) <= length:
                break
            c, is_first = letters[k]
            if c in removable and not is_first:
                del letters[k]
    return "".join(c for c, _ in letters)


def p_value(p: float, digits: int = 3) -> str:
    """A p-value as text: "0.0123", "<1e-16" where it is smaller, never "0"; "NaN" where there is none."""
    return f"<{LEAST_P:.0e}" if p < LEAST_P else number_text(float(p), f".{digits}g")


def number_text(value: float, spec: str) -> str:
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    text = format(value, spec)
    return text[1:] if text.startswith("-") and not text.strip("-0.e+") else text


def some(names: Sequence[str], most: int = 10) -> str:
    """The names, separated by commas: the first of them and their number where they are many."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
