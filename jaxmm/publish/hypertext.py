"""A Sheet -> an HTML table that needs no style sheet: rules, alignment and colours are those of its surroundings."""

from __future__ import annotations

import re
from html import escape

from jaxmm.publish.sheet import Fragment, Sheet, Symbol, fragments

_RULE, _THICK = "1px solid currentColor", "2px solid currentColor"
_NUMBERS = "text-align:center;font-variant-numeric:tabular-nums;white-space:nowrap;background:none"
_NAMES = "text-align:left;font-weight:normal;background:none"


def number(text: str) -> str:
    """Digits with a true minus: "-1.2e-09" is −1.2×10⁻⁹."""
    text = escape(text).replace("-", "−")
    return re.sub(
        r"(\d+(?:\.\d+)?)e([+−]?)0*(\d+)",
        lambda m: ("" if m[1] == "1" else f"{m[1]}×") + f"10<sup>{m[2].replace('+', '')}{m[3]}</sup>",
        text,
    )


def html(sheet: Sheet) -> str:
    lines = ['<table style="border-collapse:collapse;border:none">']
    if sheet.caption:
        lines.append(f'<caption style="caption-side:top;text-align:left">{escape(sheet.caption)}</caption>')
    lines.append("<thead>")
    if sheet.spans:
        above = "".join(
            f'<th colspan="{width}" scope="colgroup" style="text-align:center;border-top:{_THICK}">{escape(text)}</th>'
            for text, width in sheet.spans
        )
        lines.append(f'<tr><td style="border-top:{_THICK}"></td>{above}</tr>')
    top = "" if sheet.spans else f";border-top:{_THICK}"
    heads = "".join(f'<th scope="col" style="text-align:center{top}">{_head(t)}</th>' for t in sheet.head)
    lines += [f'<tr><td style="{top[1:]}"></td>{heads}</tr>', "</thead>"]
    cells = iter(fragments(sheet))
    for part in sheet.parts:
        lines.append(f'<tbody style="border-top:{_RULE}">')
        if part.title:
            lines.append(
                f'<tr><th colspan="{sheet.width}" scope="rowgroup" style="{_NAMES}">'
                f"<i>{escape(part.title)}</i></th></tr>"
            )
        for row in part.rows:
            values = "".join(f'<td style="{_NUMBERS}">{_cell(c)}</td>' for c in next(cells))
            name = f'<th scope="row" style="{_NAMES}">{escape(row.name)}</th>' if row.name else "<td></td>"
            lines.append(f"<tr>{name}{values}</tr>")
        lines.append("</tbody>")
    notes = "<br>".join(map(escape, sheet.notes))
    lines.append(
        f'<tfoot style="border-top:{_THICK}"><tr><td colspan="{sheet.width}" style="text-align:left;font-size:smaller">'
        f"{notes}</td></tr></tfoot>"
    )
    return "\n".join([*lines, "</table>"]) + "\n"


def _head(text: str) -> str:
    return f"<i>{escape(text)}</i>" if isinstance(text, Symbol) else escape(text)


def _cell(cell: list[Fragment] | str) -> str:
    return escape(cell) if isinstance(cell, str) else "".join(map(_fragment, cell))


def _fragment(f: Fragment) -> str:
    text = f"<sup>{f.text}</sup>" if f.star else number(f.text)
    return text if f.shown else f'<span style="visibility:hidden" aria-hidden="true">{text}</span>'
