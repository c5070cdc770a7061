"""A Sheet -> a pipe table of Markdown, as GitHub, Pandoc and notebooks read it.  It has no rules: titles part it."""

from __future__ import annotations

from jaxmm.publish.sheet import Fragment, Sheet, Symbol, fragments

_SPECIAL = "\\`*_{}[]<>|~^$#"


def escape(text: str) -> str:
    """A name as it is, on one line."""
    return "".join("\\" + c if c in _SPECIAL else c for c in " ".join(text.split()))


def markdown(sheet: Sheet) -> str:
    head = ["", *map(_head, sheet.head)]
    if sheet.spans:
        above = [text for text, width in sheet.spans for _ in range(width)]
        head = ["", *(f"{escape(t)}: {h}" if t and h else escape(t) or h for t, h in zip(above, head[1:], strict=True))]
    cells = iter(fragments(sheet))
    rows = []
    for part in sheet.parts:
        if part.title:
            rows.append([f"*{escape(part.title)}*", *[""] * len(sheet.head)])
        rows += [[escape(row.name), *map(_cell, next(cells))] for row in part.rows]
    widths = [max(3, *(len(row[k]) for row in [head, *rows])) for k in range(sheet.width)]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    lines = [f"| {' | '.join(_set(row, widths))} |" for row in [head, rule, *rows]]
    below = [f"Table: {escape(sheet.caption)}"] if sheet.caption else []
    return "\n\n".join(["\n".join(lines), *below, *map(escape, sheet.notes)]) + "\n"


def _set(row: list[str], widths: list[int]) -> list[str]:
    return [c.rjust(w) if k else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]


def _head(text: str) -> str:
    return f"*{escape(text)}*" if isinstance(text, Symbol) else escape(text)


def _cell(cell: list[Fragment] | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    return "".join(_fragment(f) for f in cell)


def _fragment(f: Fragment) -> str:
    shown = "".join("\\" + c if c in "*<" else c for c in f.text)
    return shown if f.shown else " " * len(shown)
