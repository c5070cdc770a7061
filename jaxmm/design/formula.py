"""A formula in R's spelling -> Terms: the response, the fixed part, the offsets and the random-effects bars.

    parse("y ~ x + offset(log(t)) + (1 + x | school/class)")

takes the bars and the offsets out of the sum on the right and leaves the fixed part, an expression whose
terms `terms.expand` finds once the columns are known (`.` needs them). A bar `(left | group)` is one
random-effects term; `(left | a/b)` becomes `(left | b:a)` and `(left | a)`, in this order and with lme4's
names: `a/b/c` gives the factors `c:(b:a)`, `b:a` and `a`. `(left || group)` is the covariance structure
"diag": every column of the model matrix of `left` gets a variance of its own and no correlation, also the
columns of one factor. (lme4 keeps a full block for a factor under `||`; write `(0 + f | g)` for that.) Other
structures are calls around the bar: `diag(1 + x | g)`; `covariance.STRUCTURES` says which there are.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from jaxmm.covariance import STRUCTURES
from jaxmm.design import functions as _functions
from jaxmm.design import syntax as _syntax
from jaxmm.design import terms as _terms
from jaxmm.design.syntax import Binary, Call, Expr, FormulaError, Name, Number, Paren, Unary

__all__ = ["Bar", "FormulaError", "Parts", "Terms", "has_bar", "parse", "parse_part"]

_PLAIN = {"us": "|", "diag": "||"}  # structures of bars without a call
_BARS = tuple(_PLAIN.values())

# What people of other dialects write, and what to write here.
_HINTS = {
    "lag": "make the lagged column first, then name it",
    "lead": "make the shifted column first, then name it",
    "diff": "make the differences a column first, then name it",
    "s": "smooths are not part of this formula; ns(x, 3) or bs(x, 5) are splines",
    "te": "smooths are not part of this formula; ns(x, 3) or bs(x, 5) are splines",
    "C": "write factor(x), with contrasts={'factor(x)': 'sum'} as an argument of the fit",
    "cat": "write factor(x)",
    "category": "write factor(x)",
    "as.character": "write factor(x)",
    "standardize": "write scale(x)",
    "cr": "natural splines are ns(x, 3)",
    "cc": "cyclic splines are not available; sin(...) and cos(...) are",
    "interaction": "write a:b",
    "relevel": "reorder the categories of the column: the first is the reference",
    "as.integer": "write as.numeric(x), or floor(x)",
    "ln": "the natural logarithm is log(x)",
    "pow": "write I(x^2)",
    "square": "write I(x^2)",
    "cbind": "cbind(successes, failures) stands on the left of '~' only",
    "weights": "weights are an argument of the fit: weights='column'",
    "re": "a random-effects term is (1 | group)",
}


@dataclass(frozen=True)
class Bar:
    """One random-effects term: `left` in R's text, the columns of its grouping factor, the covariance
    structure.

    group: the factor's columns (or calls such as "factor(x)") in the order of its name, ("b", "a") for "b:a".
    kind: "us" for a plain bar, "diag" for `||`, else the name of the call around the bar.
    name: the grouping factor's name, as lme4 shows it.
    matrix: the name of the known matrix of a structure that has one; options: further numbers, such as d of ``rr``.
    """

    left: str
    group: tuple[str, ...]
    kind: str = "us"
    name: str = ""
    matrix: str | None = None
    options: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", ":".join(self.group))

    def __str__(self) -> str:
        call, bar = ("", _PLAIN[self.kind]) if self.kind in _PLAIN else (self.kind, "|")
        beside = [] if self.matrix is None else [self.matrix]
        beside += [f"{name} = {value}" for name, value in self.options]
        return f"{call}({', '.join([f'{self.left} {bar} {self.name}', *beside])})"


@dataclass(frozen=True)
class Terms:
    """What a formula says, before any data: expressions print as R writes them."""

    response: Expr
    fixed: Expr
    offsets: tuple[Expr, ...]
    bars: tuple[Bar, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def parse(formula: str) -> Terms:
    """Read a formula such as ``"y ~ x + (1 + x | g)"``.

    Args:
        formula: the text; its right-hand side may hold no bar (`Terms.bars` is then empty).

    Raises:
        FormulaError: the text does not follow the grammar. The message shows the place and what to write.
    """
    if not isinstance(formula, str):
        turned = " (the formula comes first, then the table)" if hasattr(formula, "columns") else ""
        raise FormulaError(f"a formula is a text such as 'y ~ x + (1 | g)', not {type(formula).__name__}{turned}")
    text = " ".join(formula.split())
    tree = _sides(text)
    check_calls(tree.left, text, left=True)
    check_calls(tree.right, text, left=False)
    if any(isinstance(n, Binary) and n.op in _BARS for n in _syntax.walk(tree.left)):
        raise FormulaError("a bar belongs to the right of '~'", text, tree.left.pos)
    if isinstance(tree.left, Number | _syntax.Text) or not _syntax.names(tree.left):
        raise FormulaError("the left of '~' names no response", text, 0)
    parts = Parts(text)
    fixed = parts.split(tree.right) or Number(1.0)
    dot = () if any(n == "." for n in _syntax.names(fixed)) else None
    _terms.expand(fixed, dot=dot, text=text)  # the algebra's own complaints, before any data
    return Terms(tree.left, fixed, tuple(parts.offsets), tuple(parts.bars), text)


def parse_part(formula: str, argument: str) -> Terms:
    """Read the one-sided formula of a further parameter, such as ``"~ x + (1 | g)"``, given as ``argument``.

    Raises:
        FormulaError: no text, no '~' in front, a response on its left, or what ``parse`` does not read either.
    """
    if not isinstance(formula, str):
        raise FormulaError(f"{argument} is a formula such as '~ x', not {type(formula).__name__}")
    text = " ".join(formula.split())
    if not text.startswith("~") or len(text) == 1 or "~" in text[1:]:
        hint = f": write '~ {text}'" if text and "~" not in text else ""
        raise FormulaError(f"{argument} is a formula without a response, such as '~ x'{hint}", text)
    right = _syntax.read(text)
    assert isinstance(right, Unary)
    check_calls(right.arg, text, left=False)
    parts = Parts(text)
    fixed = parts.split(right.arg) or Number(1.0)
    return Terms(Number(1.0), fixed, tuple(parts.offsets), tuple(parts.bars), text)


def _sides(text: str) -> Binary:
    if not text:
        raise FormulaError("the formula is empty: write 'y ~ x + (1 | g)'")
    if "~" not in text:
        raise FormulaError("a formula has two sides joined by '~': y ~ x + (1 | g)", text)
    if text.startswith("~"):
        raise FormulaError("the left of '~' is empty: write the response there, y ~ x + (1 | g)", text, 0)
    if text.endswith("~"):
        raise FormulaError(
            "the right of '~' is empty: write 1 for an intercept alone, y ~ 1 + (1 | g)", text, len(text) - 1
        )
    tree = _syntax.read(text)
    if not isinstance(tree, Binary) or tree.op != "~":
        raise FormulaError("a formula has two sides joined by '~': y ~ x + (1 | g)", text)
    for node in _syntax.walk(tree):
        if node is not tree and isinstance(node, Binary | Unary) and node.op == "~":
            raise FormulaError("a formula has one '~'", text, node.pos)
    return tree


def has_bar(node: Expr) -> Binary | None:
    for n in _syntax.walk(node):
        if isinstance(n, Binary) and n.op in _BARS:
            return n
    return None


def is_offset(node: Expr) -> bool:
    """Whether it is a call of offset."""
    return isinstance(node, Call) and node.func in ("offset", "stats::offset")


def check_calls(side: Expr, text: str, *, left: bool) -> None:
    """Every call has a known function; a bar inside is allowed in a covariance structure only."""
    for node in _syntax.walk(side):
        if isinstance(node, Binary) and node.op == "&&":
            raise FormulaError("'&&' compares single values: write '&'", text, node.pos)
        if isinstance(node, Call):
            _check_call(node, side, text, left)


def _check_call(node: Call, side: Expr, text: str, left: bool) -> None:
    name = node.func.split("::")[-1]
    bar = has_bar(node)
    if bar is not None:
        if name in STRUCTURES:
            return
        raise FormulaError(
            f"a bar inside a call: a random-effects term stands by itself in the sum, as in "
            f"y ~ x + ({bar}); around it may stand a structure: {', '.join(STRUCTURES)}",
            text,
            node.pos,
        )
    if name == "cbind" and left and node is side:
        if len(node.args) != 2:
            raise FormulaError("cbind takes two columns: cbind(successes, failures)", text, node.pos)
        return
    if name == "offset" and not left:
        if len(node.args) != 1:
            raise FormulaError("offset takes one argument: offset(log(t))", text, node.pos)
        return
    if name in _functions.FUNCTIONS and name not in _HINTS:
        return
    if name in STRUCTURES:
        raise FormulaError(f"'{name}' goes around a random-effects term: {name}(0 + x | g)", text, node.pos)
    raise FormulaError(_unknown_call(node, name), text, node.pos)


def _unknown_call(node: Call, name: str) -> str:
    known = sorted({*_functions.FUNCTIONS, "offset"})
    short = name.split(".")[-1]
    hint = _HINTS.get(name)
    if hint is None and short != name and short in known:
        hint = f"write {short}({', '.join(str(a) for _, a in node.args)})"
    if hint is None:
        close = difflib.get_close_matches(name, known, 1, 0.6) or difflib.get_close_matches(
            short.lower(), known, 1, 0.6
        )
        hint = f"did you mean {close[0]}(...)?" if close else "make the column first, then name it"
    return f"'{name}(...)' is not known to a formula: {hint}\n    known: {', '.join(known)}"


class Parts:
    """Takes the bars and offsets out of the sum on the right-hand side."""

    def __init__(self, text: str):
        self.text = text
        self.bars: list[Bar] = []
        self.offsets: list[Expr] = []

    def error(self, message: str, node: Expr) -> FormulaError:
        return FormulaError(message, self.text, node.pos)

    def split(self, node: Expr) -> Expr | None:
        """What is left of the node; None when it was all bars and offsets."""
        bar = has_bar(node)
        if bar is None and not any(is_offset(n) for n in _syntax.walk(node)):
            return node
        if is_offset(node):
            assert isinstance(node, Call)
            self.offsets.append(node.args[0][1])
            return None
        if isinstance(node, Paren):
            if isinstance(node.arg, Binary) and node.arg.op in _BARS:
                self.bars.extend(self.expand(node.arg, None))
                return None
            inner = self.split(node.arg)
            return None if inner is None else Paren(inner, node.pos)
        if isinstance(node, Call) and bar is not None:
            self.structure(node)
            return None
        if isinstance(node, Binary) and node.op == "+":
            left, right = self.split(node.left), self.split(node.right)
            if left is None or right is None:
                return right if left is None else left
            return Binary("+", left, right, node.pos)
        if isinstance(node, Binary) and node.op == "-" and node.right == self.whole(node.right):
            left = self.split(node.left)
            return Unary("-", node.right, node.pos) if left is None else Binary("-", left, node.right, node.pos)
        if isinstance(node, Unary) and node.op == "+":
            return self.split(node.arg)
        raise self.misplaced(node, bar)

    def whole(self, node: Expr) -> Expr | None:
        """The node itself where it holds neither bar nor offset."""
        return None if has_bar(node) or any(is_offset(n) for n in _syntax.walk(node)) else node

    def misplaced(self, node: Expr, bar: Binary | None) -> FormulaError:
        if bar is None:
            return self.error("offset(...) stands by itself in the sum, as in y ~ x + offset(log(t))", node)
        if isinstance(node, Binary) and node.op in _BARS:
            return self.error(f"a random-effects term needs its own brackets: ({node})", node)
        op = node.op if isinstance(node, Binary | Unary) else "?"
        if op in ("==", "!=", "<", ">", "<=", ">=", "&", "!"):
            return self.error("a comparison takes its own brackets: y ~ I(x > 2) + (1 | g)", node)
        return self.error(f"a random-effects term is joined by '+', not '{op}': y ~ x + (1 | g)", node)

    def structure(self, node: Call) -> None:
        (keyword, first), *others = node.args
        inner = first.arg if isinstance(first, Paren) else first
        if keyword is not None or not (isinstance(inner, Binary) and inner.op in _BARS):
            raise self.error(f"{node.func}(...) takes a random-effects term first: {node.func}(0 + x | g)", node)
        for _, other in others:
            if has_bar(other):
                raise self.error(f"{node.func}(...) takes one random-effects term", other)
        kind = node.func.split("::")[-1]
        matrix, others = self.matrix(kind, others, node)
        options, others = self.options(kind, others)
        if others:
            shown = ", ".join(str(a) if k is None else f"{k} = {a}" for k, a in others)
            takes = " or ".join(f"{name} = 2" for name in STRUCTURES[kind].options)
            takes = f"the option {takes} alone" if takes else "no option"
            raise self.error(f"{kind}(...) takes a random-effects term and {takes}: leave out {shown}", others[0][1])
        if inner.op != "|" and _PLAIN.get(kind) != inner.op:
            raise self.error(f"'||' is the structure diag, which {kind}(...) contradicts: write '|'", inner)
        self.bars.extend(self.expand(inner, kind, matrix, options))

    def matrix(self, kind: str, others: list, node: Call) -> tuple[str | None, list]:
        """The name of the known matrix that follows the bar of a structure that has one, and what else follows."""
        if not STRUCTURES[kind].known:
            return None, others
        if not others or others[0][0] is not None or not isinstance(others[0][1], Name):
            raise self.error(
                f"{kind}(...) takes the name of a matrix after the bar: {kind}(0 + f | g, K), with matrices={{'K': K}} "
                "as an argument of the fit", node)  # fmt: skip
        return others[0][1].name, others[1:]

    def options(self, kind: str, others: list) -> tuple[tuple[tuple[str, int], ...], list]:
        """The options of a structure that has some, by name or in their order, and what else follows the bar."""
        left, found = list(STRUCTURES[kind].options), []
        while left and others and (others[0][0] is None or others[0][0] in left):
            (keyword, value), *others = others
            name = left.pop(0) if keyword is None else left.pop(left.index(keyword))
            if not isinstance(value, Number) or value.value != int(value.value):
                raise self.error(f"{name} of {kind}(...) is a whole number, {name} = 2, not '{value}'", value)
            found.append((name, int(value.value)))
        return tuple(found), others

    def expand(
        self, bar: Binary, kind: str | None, matrix: str | None = None, options: tuple[tuple[str, int], ...] = ()
    ) -> Iterator[Bar]:
        for side in (bar.left, bar.right):
            nested = has_bar(side)
            if nested is not None:
                raise self.error(
                    "a bar inside a bar: write one term for each grouping factor, (1 | a) + (1 | b), or (1 | a:b)",
                    nested,
                )
        self.check_left(bar)
        kind = kind or next(name for name, op in _PLAIN.items() if op == bar.op)
        for name, group in self.nested(bar.right):
            yield Bar(str(bar.left), group, kind, name, matrix, options)

    def check_left(self, bar: Binary) -> None:
        for node in _syntax.walk(bar.left):
            if is_offset(node):
                raise self.error("an offset has no random effect: move it out of the brackets", node)
        terms = _terms.expand(bar.left, text=self.text)
        if not terms.terms and not terms.intercept:
            raise self.error("no random effect is left of this bar: write (1 | g)", bar)

    def nested(self, group: Expr) -> list[tuple[str, tuple[str, ...]]]:
        """The factors of `a/b/c`, innermost first: name and columns."""
        if isinstance(group, Binary) and group.op == "/":
            outer = self.nested(group.left)
            name, columns = outer[0]
            inner_name, inner = self.crossed(group.right)
            # the brackets that R's deparse puts there
            inner_name = f"({inner_name})" if len(inner) > 1 else inner_name
            outer_name = f"({name})" if len(columns) > 1 else name
            return [(f"{inner_name}:{outer_name}", inner + columns), *outer]
        if isinstance(group, Paren) and isinstance(group.arg, Binary) and group.arg.op == "/":
            return self.nested(group.arg)
        name, columns = self.crossed(group)
        return [(name, columns)]

    def crossed(self, group: Expr) -> tuple[str, tuple[str, ...]]:
        """The columns of `a:b`, with the factor's name."""
        if isinstance(group, Name) and group.name not in (*_syntax.CONSTANTS[:2], "."):
            return group.name, (str(group),)
        if isinstance(group, Paren):
            return self.crossed(group.arg)
        if isinstance(group, Binary) and group.op == ":":
            left_name, left = self.crossed(group.left)
            right_name, right = self.crossed(group.right)
            if isinstance(group.left, Paren) and len(left) > 1:
                left_name = f"({left_name})"
            if isinstance(group.right, Paren) and len(right) > 1:
                right_name = f"({right_name})"
            return f"{left_name}:{right_name}", left + right
        if isinstance(group, Call) and group.func in ("factor", "as.factor"):
            return str(group), (str(group),)
        remedy = "a grouping factor is a column, a:b or a/b"
        if isinstance(group, Binary) and group.op in ("*", "+"):
            parts = f"(1 | {group.left}) + (1 | {group.right})"
            remedy = f"write one term for each factor: {parts}" + (
                f" + (1 | {group.left}:{group.right})" if group.op == "*" else ""
            )
        elif isinstance(group, Binary) and group.op == "/":
            remedy = "nest from the left: a/b/c"
        elif isinstance(group, Number):
            remedy = f"the number {group} is no grouping factor: (1 | g) has the column on the right of the bar"
        raise self.error(f"cannot group by '{group}': {remedy}", group)
