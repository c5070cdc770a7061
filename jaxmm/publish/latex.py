"""A Sheet -> LaTeX with the rules of booktabs: no other package is needed, and any engine will do.

Names are escaped.  What LaTeX would take for something else is kept from it: "[" and "*" at the start of a row, which
would belong to the \\\\ before it; "--", a dash; Greek letters and signs, which not every font has in text.
"""

from __future__ import annotations

import re
from itertools import groupby

from jaxmm.publish.sheet import Fragment, Row, Sheet, Symbol, fragments

_ESCAPES = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "²": "$^{2}$",
    "³": "$^{3}$",
    "°": r"$^{\circ}$",
    "µ": r"$\mu$",
}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi . pi rho . sigma tau upsilon phi chi psi "
    "omega"
).split()
_ESCAPES |= {chr(0x3B1 + k): f"$\\{name}$" for k, name in enumerate(_GREEK) if name != "."}
_CAPITAL = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split()
_ESCAPES |= {c: f"$\\{name}$" for c, name in zip("ΓΔΘΛΞΠΣΦΨΩ", _CAPITAL, strict=True)}


def escape(text: str) -> str:
    """A name as LaTeX prints it, on one line."""
    shown = "".join(_ESCAPES.get(c, c) for c in " ".join(text.split()))
    return shown.replace("--", "-{}-").replace("--", "-{}-")


def number(text: str) -> str:
    """Digits with a true minus: "-1.2e-09" is $-1.2\\times10^{-9}$."""
    text = re.sub(
        r"([-<]?)(\d+(?:\.\d+)?)e([+-]?\d+)",
        lambda m: rf"${m[1]}{m[2]}\times10^{{{int(m[3])}}}$" if m[2] != "1" else f"${m[1]}10^{{{int(m[3])}}}$",
        text,
    )
    return "".join(
        piece if k % 2 else piece.replace("-", "$-$").replace("<", "$<$")
        for k, piece in enumerate(re.split(r"(\$[^$]*\$)", text))
    )


def latex(sheet: Sheet, label: str = "") -> str:
    """The ``tabular`` with its notes below; with a caption or a label within a ``table`` with a number, which a label
    refers to.

    Raises:
        ValueError: a label that LaTeX cannot read.
    """
    if not isinstance(label, str) or set(label) & set("{}%#\\~^"):
        raise ValueError(f"label must be a text without {{ }} % # \\ ~ ^, such as 'tab:fit', not {label!r}")
    k = sheet.width
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'c' * (k - 1)}}}", "\\toprule"]
    if sheet.spans:
        lines += [*_spans(sheet)]
    lines.append(_line(["", *map(_head, sheet.head)]))
    cells = iter(fragments(sheet))
    for part in sheet.parts:
        lines.append("\\midrule")
        if part.title:
            lines.append(f"\\multicolumn{{{k}}}{{l}}{{\\textit{{{escape(part.title)}}}}} \\\\")
        lines += [_row(row, next(cells)) for row in part.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    if sheet.notes:
        notes = " \\\\\n".join(_guarded(escape(note)) for note in sheet.notes)
        lines.append(f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{\\raggedright\\footnotesize\n{notes}}}")
    if sheet.caption or label:
        above = [f"\\caption{{{escape(sheet.caption)}}}", *([f"\\label{{{label}}}"] if label else [])]
        lines = [lines[0], "\\begin{table}[htbp]", "\\centering", *above, *lines[1:], "\\end{table}"]
    return "\n".join(lines) + "\n"


def _spans(sheet: Sheet) -> list[str]:
    texts, rules, at = [""], [], 2
    for text, width in sheet.spans:
        texts.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(text)}}}")
        if width > 1 and text:
            rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return [_line(texts), *([" ".join(rules)] if rules else [])]


def _head(text: str) -> str:
    return f"${text}$" if isinstance(text, Symbol) else escape(text)


def _row(row: Row, cells: list[list[Fragment] | str]) -> str:
    return _line([escape(row.name), *(_cell(c) if isinstance(c, list) else escape(c) for c in cells)])


def _cell(pieces: list[Fragment]) -> str:
    """What is not shown keeps its place as a phantom, neighbours as one."""
    out = ""
    for shown, run in groupby(pieces, lambda f: f.shown):
        text = "".join(f"$^{{{f.text}}}$" if f.star else number(f.text) for f in run)
        out += text if shown else f"\\phantom{{{text}}}"
    return out


def _line(cells: list[str]) -> str:
    return _guarded(" & ".join(cells) + " \\\\")


def _guarded(line: str) -> str:
    """Not taken for a length, or a star, of the \\\\ before it."""
    return "{}" + line if line.lstrip().startswith(("[", "*")) else line
