"""The right-hand side of a formula -> variables and terms: R's algebra of crossing and nesting.

A term is a set of variables, kept as the bits of an integer (bit k is the k-th variable by first appearance),
so that `a * b` is {a}, {b}, {a, b} and an interaction is a bitwise or. The rules are those of R's
`terms.formula`: terms come by the number of their variables, then by first appearance; `-` removes; `0`, `-1`
and `1` switch the intercept, the last one winning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmm.design.syntax import Binary, Expr, FormulaError, Name, Number, Paren, Text, Unary


@dataclass(frozen=True)
class TermList:
    """`terms[t]` has bit k where `variables[k]` takes part in term t."""

    variables: tuple[Expr, ...]
    terms: tuple[int, ...]
    intercept: bool

    def label(self, term: int) -> str:
        return ":".join(str(v) for k, v in enumerate(self.variables) if term >> k & 1)


def expand(expr: Expr, *, dot: Sequence[str] | None = None, text: str = "") -> TermList:
    """The terms of `expr`; `dot` are the columns that `.` stands for, `text` the formula for messages.

    Raises FormulaError for a number or a text where a variable is due, a power that is not a positive
    integer, and a `.` where `dot` is None.
    """
    algebra = _Algebra(dot, text)
    algebra.declare(expr)
    terms = algebra.terms(expr, True)
    ordered = sorted(terms, key=lambda t: t.bit_count())  # stable: by appearance within a degree
    return TermList(tuple(algebra.variables.values()), tuple(ordered), algebra.intercept)


class _Algebra:
    def __init__(self, dot: Sequence[str] | None, text: str):
        self.dot = dot
        self.text = text
        self.variables: dict[str, Expr] = {}
        self.bits: dict[str, int] = {}
        self.intercept = True

    def error(self, message: str, node: Expr) -> FormulaError:
        return FormulaError(message, self.text, node.pos)

    def dot_names(self, node: Expr) -> list[Name]:
        if self.dot is None:
            raise self.error("'.' stands for the other columns in the fixed part only", node)
        return [Name(n) for n in self.dot]

    def declare(self, node: Expr) -> None:
        """Number the variables in the order of the text, also those that are removed later."""
        if isinstance(node, Binary) and node.op == "^":
            self.declare(node.left)
        elif isinstance(node, Binary) and node.op in ("+", "-", "*", "/", ":", "%in%"):
            self.declare(node.left)
            self.declare(node.right)
        elif isinstance(node, Paren) or (isinstance(node, Unary) and node.op in "+-"):
            self.declare(node.arg)
        elif isinstance(node, Name) and node.name == ".":
            for name in self.dot_names(node):
                self.declare(name)
        elif isinstance(node, Number):
            if node.value not in (0.0, 1.0):
                raise self.error(
                    f"the number {node} stands where a column is due: "
                    "0 and 1 switch the intercept, arithmetic goes inside I(...)",
                    node,
                )
        elif isinstance(node, Text) or (isinstance(node, Name) and node.name in ("TRUE", "FALSE")):
            raise self.error(f"{node} stands where a column is due", node)
        else:
            key = str(node)
            if key not in self.variables:
                self.bits[key] = 1 << len(self.variables)
                self.variables[key] = node

    def terms(self, node: Expr, keep: bool) -> list[int]:
        """The terms of a node; `keep` is False below an odd number of minus signs."""
        if isinstance(node, Number):
            self.intercept = keep == (node.value == 1.0)
            return []
        if isinstance(node, Paren):
            return self.terms(node.arg, keep)
        if isinstance(node, Name) and node.name == ".":
            return [self.bits[str(n)] for n in self.dot_names(node)]
        if isinstance(node, Unary) and node.op == "+":
            return self.terms(node.arg, keep)
        if isinstance(node, Unary) and node.op == "-":
            self.terms(node.arg, not keep)
            return []
        if isinstance(node, Binary) and node.op in _OPERATORS:
            left = self.terms(node.left, keep)
            if node.op == "-":
                gone = self.terms(node.right, not keep)
                return [t for t in left if t not in gone]
            if node.op == "^":
                return self.power(node, left)
            return _unique(_OPERATORS[node.op](left, self.terms(node.right, keep)))
        return [self.bits[str(node)]]

    def power(self, node: Binary, base: list[int]) -> list[int]:
        exponent = node.right.arg if isinstance(node.right, Paren) else node.right
        if not isinstance(exponent, Number) or exponent.value < 1 or exponent.value != int(exponent.value):
            raise self.error(
                "outside I(...), '^' crosses terms and takes a whole number: (a + b)^2; arithmetic is I(x^2)",
                node,
            )
        result = base
        for _ in range(int(exponent.value) - 1):
            result = _unique([a | b for a in result for b in base])
        return result


def _unique(terms: list[int]) -> list[int]:
    return list(dict.fromkeys(terms))


def _all(terms: list[int]) -> int:
    together = 0
    for t in terms:
        together |= t
    return together


_OPERATORS = {
    "+": lambda a, b: a + b,
    "-": None,  # handled above: the right side counts with the other sign
    "^": None,
    ":": lambda a, b: [s | t for s in a for t in b],
    "*": lambda a, b: a + b + [s | t for s in a for t in b],
    "/": lambda a, b: a + [_all(a) | t for t in b],
    "%in%": lambda a, b: [s | _all(b) for s in a],
}
