"""Sheet: a table for print before it is LaTeX, HTML, Markdown or text; and where its numbers stand under each other.

    Sheet      heads, Parts with a rule above each, notes below
    Part       a title, "" for none, and Rows
    Row        a name and a cell for every further column: a ``Number``, or a text

The cells of a column align at the decimal point without a package for it: each is filled up with what it lacks of the
widest, invisibly, so that all of them are equally wide.  With the cells -10.4 and (1.546)*, for example, the column has
an opening, a sign, two digits, three decimals, a closing and a star:

    ␣-10.4␣␣␣␣          each ␣ is as wide as the character that it stands for
    ␣␣(1.546)*

``fragments`` says for each cell what is shown and what only takes its place; a writer (``latex``, ``html``,
``markdown``, ``plain``) turns these into its language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Symbol(str):
    """A letter of mathematics in a head: italic."""


@dataclass(frozen=True)
class Number:
    """Numbers as they are printed, in ASCII: "-10.47", "1.2e-09", "<0.001"; several are set apart by commas."""

    parts: tuple[str, ...]
    opening: str = ""
    closing: str = ""
    stars: int = 0


Cell = Number | str


@dataclass(frozen=True)
class Row:
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Part:
    rows: tuple[Row, ...]
    title: str = ""


@dataclass(frozen=True)
class Sheet:
    """``head``: of every column after the names; ``spans``: texts above so many of them, () for none."""

    head: tuple[str, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    caption: str = ""
    spans: tuple[tuple[str, int], ...] = ()

    @property
    def width(self) -> int:
        """Columns, with that of the names."""
        return 1 + len(self.head)

    def rows(self) -> list[Row]:
        return [row for part in self.parts for row in part.rows]


class Fragment(NamedTuple):
    """A piece of a cell; where it is not ``shown`` it takes its place and no more."""

    text: str
    shown: bool = True
    star: bool = False


class _Pieces(NamedTuple):
    """Of a number how many characters of each kind: the sign, digits before the point, the point and what follows."""

    sign: str
    digits: str
    decimals: str


def fragments(sheet: Sheet) -> list[list[list[Fragment] | str]]:
    """Per row of the sheet and column after the names: the pieces of a number, or the text as it is."""
    rows = sheet.rows()
    columns = [_column([row.cells[k] for row in rows]) for k in range(len(sheet.head))]
    return [[column[i] for column in columns] for i in range(len(rows))]


def _column(cells: Sequence[Cell]) -> list[list[Fragment] | str]:
    numbers = [c for c in cells if isinstance(c, Number) and not _scientific(c)]
    single = [c for c in numbers if len(c.parts) == 1]
    widest: dict[int, list[_Pieces]] = {}
    for count in {len(c.parts) for c in numbers}:
        alike = [c for c in numbers if len(c.parts) == count]
        widest[count] = [_widest([_pieces(c.parts[k]) for c in alike]) for k in range(count)]
    opening, closing = (max((getattr(c, side) for c in single), key=len, default="") for side in ("opening", "closing"))
    stars = max((c.stars for c in cells if isinstance(c, Number)), default=0)
    return [_cell(c, widest, opening, closing, stars) for c in cells]


def _cell(cell: Cell, widest: dict[int, list[_Pieces]], opening: str, closing: str, stars: int) -> list[Fragment] | str:
    if isinstance(cell, str):
        return cell
    shown = Fragment("*" * cell.stars, True, True)
    lack = Fragment("*" * (stars - cell.stars), False, True)
    if _scientific(cell):
        return [f for f in (Fragment(f"{cell.opening}{', '.join(cell.parts)}{cell.closing}"), shown, lack) if f.text]
    alone = len(cell.parts) == 1
    pieces = [Fragment(opening[len(cell.opening) :] if alone else "", False)]
    after = ""  # decimals that a number lacks: after its comma, not between the two, and after all that is shown
    for k, text in enumerate(cell.parts):
        have, want = _pieces(text), widest[len(cell.parts)][k]
        before = after + want.sign[len(have.sign) :] + want.digits[len(have.digits) :]
        pieces += [Fragment(", " if k else ""), Fragment(before, False), Fragment(text if k else cell.opening + text)]
        after = want.decimals[len(have.decimals) :]
    after += closing[len(cell.closing) :] if alone else ""
    return [f for f in (*pieces, Fragment(cell.closing), shown, Fragment(after, False), lack) if f.text]


def _scientific(cell: Number) -> bool:
    return not all(_pieces(text).digits for text in cell.parts)


def _pieces(text: str) -> _Pieces:
    """No digits where it is no plain number, but "1e-9" or "NaN"."""
    sign = text[: len(text) - len(text.lstrip("-<"))]
    whole, _, decimals = text[len(sign) :].partition(".")
    if not (whole.isdigit() and (decimals.isdigit() or not decimals)):
        return _Pieces("", "", "")
    return _Pieces(sign, whole, f".{decimals}" if decimals else "")


def _widest(found: Sequence[_Pieces]) -> _Pieces:
    """A stand-in of the most characters: "-", "000", ".00"."""
    decimals = max(len(p.decimals) for p in found)
    return _Pieces(
        max((p.sign for p in found), key=len),
        "0" * max(len(p.digits) for p in found),
        "." + "0" * (decimals - 1) if decimals else "",
    )
