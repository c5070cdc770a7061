"""Docstrings as the reference shows them: examples are code, names of the reference are links."""

import re
from pathlib import Path

import griffe

EXAMPLE = re.compile(r"((?:^[ \t]*(?:>>>|\.\.\.) .*\n?)(?:^[ \t]*\S.*\n?)*)", re.M)
RETURNED = re.compile(r"^([ \t]+)``(\w+)``: ", re.M)
NAME = re.compile(r"(``?)(?:jaxmm\.|mm\.)?([\w.]+)(\(\))?\1(?!`)")
DIRECTIVE = re.compile(r"^::: (jaxmm\.\S+)$", re.M)


class Docstrings(griffe.Extension):
    """Changes each docstring once, before it is rendered."""

    def __init__(self) -> None:
        folder = Path(__file__).resolve().parents[1] / "reference"
        self._documented = spelled([n for p in sorted(folder.glob("*.md")) for n in DIRECTIVE.findall(p.read_text())])

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            text = RETURNED.sub(r"\1\2: ", obj.docstring.value)  # below "Returns:" the type, which is a link by itself
            obj.docstring.value = linked(fenced(text), self._documented)


def fenced(text: str) -> str:
    """Lines of ``>>>`` in a fence: Markdown takes them for a quotation."""
    return text if "```" in text else EXAMPLE.sub(lambda m: f"\n```pycon\n{m[1].rstrip()}\n```\n", text)


def spelled(names: list[str]) -> dict[str, str]:
    """As docstrings write them, "Fit.vcov" and "VarCorr" -> the full name. Words that arguments have too are left out:
    what has no dot is a class, or is listed here."""
    found = {}
    for name in names:
        parts = name.split(".")[1:]
        short = parts[-1] if len(parts) < 2 or not parts[-2][0].isupper() else ".".join(parts[-2:])
        if "." in short or short[0].isupper() or short in ("lmm", "glmm", "fit_many", "power_curve"):
            found[short] = name
    return found


def linked(text: str, documented: dict[str, str]) -> str:
    """Names in back quotes, outside fences, as links."""

    def link(m: re.Match) -> str:
        return f"[`{m[2]}{m[3] or ''}`][{documented[m[2]]}]" if m[2] in documented else m[0]

    pieces = re.split(r"(^[ \t]*```.*?^[ \t]*```)", text, flags=re.M | re.S)
    return "".join(p if p.lstrip().startswith("```") else NAME.sub(link, p) for p in pieces)
