"""What a table's columns say about themselves that their user may not know: one sentence each, no error.

a text or two among numbers     the column is a factor of as many levels as it has numbers
numbers or dates, all as texts  the same
times as texts                  they are in the order of the alphabet, and not in their own
blanks and capitals             what was one level may be several
large whole numbers as floats   neighbours were the same number before they came here
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from jaxmm.design.columns import EXACT, Column, Table
from jaxmm.design.syntax import Expr, Name, is_number, names
from jaxmm.design.terms import TermList

FEW, MANY = 0.1, 1 / 3  # shares of the rows: texts that are strays; at most, where the numbers are not a few codes
CODES = 10  # distinct numbers below which they may be codes, of which some are texts
LOOKED_AT = 10_000  # levels of one factor, beyond which looking takes longer than it is worth
WORD = 4  # letters from which capitals are how a word is written, and no label of their own: AA and Aa are genotypes
NUMBERED = re.compile(r"[^\d]*(\d+(?:\.\d+)?)[^\d]*")
COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
DATE = re.compile(r"\s*(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d\d|\d{4}))([ T].*)?")


def remarks(
    table: Table, parts: Iterable[TermList], groups: Iterable[Sequence[Expr]], meant: Collection[str]
) -> tuple[str, ...]:
    """Of the variables of X and Z, and of the grouping factors; ``meant`` are columns known to be factors."""
    variables = [v for part in parts for v in part.variables]
    columns = [table.column(v.name) for v in variables if isinstance(v, Name) and v.name not in meant]
    found = [stray_texts(column) or written_as_texts(column) for column in columns]
    levels = [n for exprs in groups for e in exprs for n in names(e)]
    levels += [n for v in variables if str(v).startswith(("factor(", "as.factor(", "ordered(")) for n in names(v)]
    found += [lost_digits(table.column(n)) for n in levels if n in table]
    every = dict.fromkeys([n for v in variables for n in names(v)] + levels)
    found += [alike(table.column(n)) for n in every if n in table]
    return tuple(dict.fromkeys(text for text in found if text))


def out_of_order(column: Column) -> str | None:
    """A word about times that are texts with a number in each, week 2 and week 10, whose order is another one."""
    if column.kind != "text":
        return None
    found = [NUMBERED.fullmatch(str(label)) for label in column.levels.labels]
    if not all(found):
        return None
    numbers = [float(m.group(1)) for m in found if m]
    if numbers == sorted(numbers):
        return None
    labels = column.levels.labels
    shown = ", ".join(repr(str(label)) for label in labels[:4]) + ", .." * (len(labels) > 4)
    return (
        f"the times of '{column.name}' are texts, which are taken in the order of the alphabet ({shown}), and the "
        "structure of the errors goes by their order: make the column a pandas.Categorical with its categories in "
        "order, or numbers"
    )


def stray_texts(column: Column) -> str | None:
    """A word about the few texts of a column whose other values are numbers, written as texts or not."""
    if column.kind != "text" or not len(column.levels.labels):
        return None
    levels = column.levels
    stray = np.array([not is_number(label) for label in levels.labels])
    rows = np.bincount(levels.codes[levels.codes >= 0], minlength=len(stray))
    share, numbers = rows[stray].sum() / rows.sum(), int((~stray).sum())
    if not 0 < share <= MANY or numbers < 2 or (share > FEW and numbers < CODES):
        return None
    texts = levels.labels[stray]
    shown = ", ".join(repr(str(t)) for t in texts[:5]) + (", ..." if len(texts) > 5 else "")
    count = int(rows[stray].sum())
    return (
        f"'{column.name}' is taken for a factor of {len(stray)} levels: {shown} (in {count} row{'s' * (count > 1)}) is "
        f"no number, and all its other values are; convert it (pandas.to_numeric(..., errors='coerce') makes what is "
        f"no number missing), or write factor({column.name}) if levels are meant"
    )


def written_as_texts(column: Column) -> str | None:
    """A word about a column all of whose texts are dates, or numbers of which some have a comma."""
    if column.kind != "text" or not 1 < len(column.levels.labels) <= LOOKED_AT:
        return None
    labels = column.levels.labels
    commas = [v for v in labels if COMMA.fullmatch(v)]
    dates = [v for v in labels if DATE.fullmatch(v)]
    if commas and all(COMMA.fullmatch(v) or is_number(v) for v in labels):
        shown, cure = commas[0], f"pandas.read_csv(..., decimal=',') reads {column.name} as numbers"
    elif len(dates) == len(labels):
        shown = dates[0]
        cure = f"the days of t = pandas.to_datetime(data[{column.name!r}]) are numbers: (t - t.min()).dt.days"
    else:
        return None
    return (
        f"'{column.name}' is text (such as {str(shown)!r}) and is taken for a factor of {len(labels)} levels; {cure}; "
        f"write factor({column.name}) if levels are meant"
    )


def alike(column: Column) -> str | None:
    """A word about levels that differ in the blanks around them or in capitals alone."""
    if column.kind not in ("text", "category") or len(column.levels.labels) > LOOKED_AT:
        return None
    groups = defaultdict(list)
    for label in column.levels.used().labels:
        bare = " ".join(label.split())
        groups[bare.lower() if len(bare) >= WORD else bare].append(str(label))
    same = [v for v in groups.values() if len(v) > 1]
    if not same:
        return None
    return (
        f"'{column.name}' has levels that differ in blanks or capitals alone: {', '.join(map(repr, same[0][:5]))}"
        + (f" and {len(same) - 1} more such" if len(same) > 1 else "")
        + f"; data[{column.name!r}].str.strip().str.lower() makes them one"
    )


def lost_digits(column: Column) -> str | None:
    """A word about whole numbers too large for floating point that are levels."""
    if column.kind != "number" or column.values.dtype.kind != "f":
        return None
    sizes = np.abs(column.values[np.isfinite(column.values)])
    if not len(sizes) or sizes.max() < EXACT:
        return None
    return (
        f"'{column.name}' gives levels, and holds floating-point numbers of {sizes.max():.3g}: whole numbers from 2^53 "
        "on that lie next to each other are one number there, so that levels may have merged; read the column as "
        "integers or as text"
    )
