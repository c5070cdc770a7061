"""The sources of the library -> all that it can say when something is amiss: messages, for a page and its test.

A message is what stands in a `raise`, a `warn(...)`, a `Finding(...)`, or in a list of notes or remarks; what is filled
in, names and numbers, is "…".
"""

import ast
import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# where one meets a message -> beginnings of the names of modules
AREAS = {
    "The formula": ("design.syntax", "design.formula", "design.terms"),
    "The data": ("design", "start_given"),
    "Response, family and covariance": (
        "families",
        "links",
        "covariance",
        "generalised",
        "kinds",
        "model",
        "design.response",
        "design.residual",
        "residual.",
        "errors",
    ),
    "Keywords, keys and settings": (
        "_",
        "optimize",
        "objective",
        "plan",
        "linear",
        "fit",
        "frames",
        "datasets",
        "estimate",
        "solver",
        "layout",
        "programs",
    ),
    "Tests and intervals": ("inference", "coefficients", "studies.bootstrap", "studies.draws"),
    "Means and contrasts": ("means",),
    "Predictions, residuals and checks": ("predict", "residuals", "simulate", "diagnos", "prepared"),
    "Tables and pictures": ("plots", "publish", "tables", "tidy", "summary", "diagnose.canvas", "diagnose.pictures"),
    "Many fits and studies": (
        "batch",
        "sources",
        "studies",
        "permute",
        "lanes",
        "results",
        "sklearn",
        "distribute",
        "command",
        "pooling",
        "imputation",
        "crossval",
    ),
    "Files and folders": ("results.files", "results.store", "results.shards", "results.ahead", "command.spec"),
}
LISTS = ("notes", "failures")  # what sentences are added to
SAYING = ("remarks", "stray_texts", "lost_digits", "few_levels", "accuracy")  # functions that return sentences
CONSTANTS = ("inference", "means")  # folders whose named sentences are notes
LEAST = 3  # words that tell a message


class Message(NamedTuple):
    """``kind``: the class of an error, or "Warning", "Finding", "Note"; ``area``: a key of AREAS."""

    kind: str
    text: str
    area: str


def messages(root: Path) -> list[Message]:
    """Of the package in the folder ``root``, by area and kind, each once."""
    found = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for kind, text in _of_module(module, ast.parse(path.read_text())):
            if len(words(text).split()) >= LEAST:
                found.append(Message(kind, " ".join(text.split()), area(module)))
    return sorted(set(found), key=lambda m: (list(AREAS).index(m.area), m.kind, m.text))


def area(module: str) -> str:
    fitting = [(len(start), title) for title, starts in AREAS.items() for start in starts if module.startswith(start)]
    if not fitting:
        raise ValueError(f"AREAS has no place for {module}")
    return max(fitting)[1]


def words(text: str) -> str:
    """Its words alone, without what is filled in: how messages and pages are compared."""
    return " ".join(re.findall(r"\w+", text))


def telling(text: str) -> str:
    """The words by which a message is found: the first five of its first piece that has three or more."""
    pieces = [words(piece).split() for piece in re.split(r"…|\{[:\w.]*\}", text)]
    return " ".join(next((p for p in pieces if len(p) >= LEAST), max(pieces, key=len))[:5])


def as_html(found: list[Message]) -> str:
    """A list to open for each area."""
    out = []
    for title in AREAS:
        own = [m for m in found if m.area == title]
        items = "".join(f"<li><code>{m.kind}</code> {html.escape(m.text)}</li>" for m in own)
        out.append(f"<details><summary>{title} ({len(own)})</summary><ul>{items}</ul></details>")
    return "\n".join(out)


# ---------------------------------------------------------------- reading
Known = dict[str, list[tuple[int, ast.expr]]]  # name -> (line, what is assigned there)


def _of_module(module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    constants = _assigned(tree.body)
    for name, ((_, value), *_) in constants.items():
        if module.split(".")[0] in CONSTANTS and name.isupper() and isinstance(value, ast.Constant | ast.JoinedStr):
            yield "Note", _text(value, {})
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            known = constants | _assigned(ast.walk(function))
            for node in ast.walk(function):
                yield from _of_node(node, function.name, known)


def _of_node(node: ast.AST, function: str, known: Known) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        called = ast.unparse(node.exc.func)
        kind = "FormulaError" if called in ("self.error", "self.misplaced") else called
        kind = "DataError" if kind == "RefusedError" else kind  # with the name of the function that refused before it
        if kind.endswith("Error") and not kind.startswith("_"):
            yield kind, _text(node.exc.args[0], known)
    elif isinstance(node, ast.Return) and function in SAYING and node.value is not None:
        values = node.value.elts if isinstance(node.value, ast.List) else [node.value]
        yield from (("Note", _text(value, known)) for value in values)
    elif isinstance(node, ast.Call) and node.args:
        called = ast.unparse(node.func)
        if called == "warn":
            yield "Warning", _text(node.args[0], known)
        elif called == "Finding":
            yield "Finding", _text(node.args[2], known)
        elif called in [f"{name}.append" for name in LISTS] or (called == "out.append" and function in SAYING):
            yield "Note", _text(node.args[0], known)


def _assigned(nodes: Iterable[ast.AST]) -> Known:
    found: Known = {}
    for n in nodes:
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name):
            found.setdefault(n.targets[0].id, []).append((n.lineno, n.value))
    return found


def _text(node: ast.expr, known: Known, depth: int = 3) -> str:
    """The text that an expression makes, "…" for what is known only when it runs; a name is what was assigned last."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v, known, 0) for v in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left, known, depth) + _text(node.right, known, depth)
    if isinstance(node, ast.Name) and node.id in known and depth:
        before = [value for line, value in sorted(known[node.id], key=lambda x: x[0]) if line <= node.lineno]
        return _text((before or [known[node.id][0][1]])[-1], known, depth - 1)
    return "…"
