"""A Sheet -> text of fixed width, as it prints in a terminal."""

from __future__ import annotations

from jaxmm.publish.sheet import Fragment, Sheet, fragments


def plain(sheet: Sheet) -> str:
    cells = [["".join(map(_fragment, c)) if isinstance(c, list) else c for c in row] for row in fragments(sheet)]
    names = [row.name for row in sheet.rows()]
    widths = [max(len(t) for t in [h, *(row[k] for row in cells)]) for k, h in enumerate(sheet.head)]
    at = 0
    for text, width in sheet.spans:
        lack = len(text) - (sum(widths[at : at + width]) + 2 * (width - 1))
        widths[at + width - 1] += max(0, lack)
        at += width
    first = max(map(len, names), default=0)
    rule = "-" * (first + sum(widths) + 2 * len(widths))
    lines = [sheet.caption] if sheet.caption else []
    lines.append(rule)
    if sheet.spans:
        above, at = " " * first, 0
        for text, width in sheet.spans:
            above += "  " + text.center(sum(widths[at : at + width]) + 2 * (width - 1))
            at += width
        lines.append(above)
    lines.append(_line("", list(sheet.head), first, widths))
    rest = iter(cells)
    for part in sheet.parts:
        lines.append(rule)
        lines += [part.title] if part.title else []
        lines += [_line(row.name, next(rest), first, widths) for row in part.rows]
    return "\n".join(line.rstrip() for line in [*lines, rule, *sheet.notes])


def _line(name: str, cells: list[str], first: int, widths: list[int]) -> str:
    return name.ljust(first) + "".join("  " + _centred(c, w) for c, w in zip(cells, widths, strict=True))


def _centred(text: str, width: int) -> str:
    """Cells of one width stand at one place; a half goes to the left."""
    spare = width - len(text)
    return " " * (spare - spare // 2) + text + " " * (spare // 2)


def _fragment(f: Fragment) -> str:
    return f.text if f.shown else " " * len(f.text)
