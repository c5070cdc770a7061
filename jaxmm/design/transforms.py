"""Expressions of a formula -> values: arithmetic, elementwise functions, and transforms that remember.

`evaluate` turns an expression into numbers (n,), a `Matrix` (n, k) or `Levels`, with the meaning that R
gives it. A transform that depends on the whole column (`poly`, `scale`, `center`, `bs`, `ns`, and `mean`,
`sd`, `min`, `max`, `median` inside I(...)) writes what it learned into `memory` under its own text when the
model is fitted, and reads it there for new data, so that predictions use the fit's centre, knots and
polynomials. (R remembers fewer of them: `I(x - mean(x))` is centred anew at prediction there.)

It learns from every row of the table in which its own columns are there, as R's model frame does: also from rows that
another column's missing value, or a weight of zero, takes out of the fit.

The functions themselves are in `functions`.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from jaxmm.design.columns import DataError, Levels, logical
from jaxmm.design.functions import ELEMENTWISE, FUNCTIONS, LEARNING, LEVELLING, Matrix, RefusedError, as_number
from jaxmm.design.syntax import Binary, Call, Expr, Name, Number, Paren, Text, Unary, names, number_text, walk

Value = np.ndarray | Levels | Matrix
Frame = Mapping[str, np.ndarray | Levels]


def evaluate(
    node: Expr, frame: Frame, memory: dict[str, Any], *, fitting: bool, anew: Collection[str] | None = None
) -> Any:
    """The value of an expression on the rows of `frame`; a number where it names no column. Where `anew` is given,
    only transforms of one of these columns learn, and others remember.

    Raises DataError where text or a factor stands for numbers, or an argument is out of range.
    """
    return _Evaluator(frame, memory, fitting, anew).value(node)


def learns(node: Expr, columns: Collection[str]) -> bool:
    """Whether an expression has a transform that depends on the whole of one of the columns."""
    calls = (c for c in walk(node) if isinstance(c, Call) and c.func.split("::")[-1] in LEARNING)
    return any(name in columns for c in calls for name in names(c))


class _Evaluator:
    def __init__(self, frame: Frame, memory: dict[str, Any], fitting: bool, anew: Collection[str] | None = None):
        self.frame = frame
        self.memory = memory
        self.fitting = fitting
        self.anew = anew

    def value(self, node: Expr) -> Any:
        match node:
            case Name("TRUE") | Name("FALSE"):
                return node.name == "TRUE"
            case Name("pi") if "pi" not in self.frame:
                return np.pi
            case Name(("T" | "F") as letter) if letter not in self.frame:
                return letter == "T"
            case Name(name):
                return self.frame[name]
            case Number(value) | Text(value):
                return value
            case Paren(inner):
                return self.value(inner)
            case Unary():
                return self.unary(node)
            case Binary():
                return self.binary(node)
            case Call():
                return self.call(node)

    def number(self, node: Expr) -> Any:
        return as_number(self.value(node), node)

    def unary(self, node: Unary) -> Any:
        if node.op == "!":
            truth, missing = _truth(self.value(node.arg), node.arg)
            return logical(~truth, missing)
        x = self.number(node.arg)
        return -x if node.op == "-" else x

    def binary(self, node: Binary) -> Any:
        if node.op == "&":
            (a, na), (b, nb) = (
                _truth(self.value(node.left), node.left),
                _truth(self.value(node.right), node.right),
            )
            unknown = (na & (b | nb)) | (nb & (a | na))  # FALSE & NA is FALSE
            return logical(a & b & ~unknown, unknown)
        if node.op == "%in%":
            return _member(self.value(node.left), self.value(node.right), node)
        left, right = self.value(node.left), self.value(node.right)
        if node.op in ("==", "!=") and (isinstance(left, str) or isinstance(right, str)):
            return _same_text(left, right, node)
        a, b = as_number(left, node.left), as_number(right, node.right)
        with np.errstate(all="ignore"):
            result = _ARITHMETIC[node.op](a, b)
        if node.op in _COMPARE:
            missing = np.isnan(a) | np.isnan(b)
            return logical(np.asarray(result), np.broadcast_to(missing, np.shape(result)))
        return result

    def call(self, node: Call) -> Any:
        name = node.func.split("::")[-1]
        if name == "I":
            return self.value(_only(node))
        if name == "c":
            return tuple(self.value(a) for _, a in node.args)
        if name in ELEMENTWISE:
            x = self.number(_only(node))
            with np.errstate(all="ignore"):
                return ELEMENTWISE[name](x)
        if name not in LEARNING:
            return self._apply(node, name, self._bound(node, name))[0]
        bound, key = self._bound(node, name), str(node)
        if self.fitting and (self.anew is None or learns(node, self.anew)):
            wide = self._learner(node)
            known = bound if wide is self else wide._bound(node, name)
            finite = _finite_only(known)
            result, self.memory[key] = self._apply(node, name, finite)
            if finite is bound:
                return result
        bound.arguments["state"] = self.memory[key]
        return self._apply(node, name, bound)[0]

    def _bound(self, node: Call, name: str) -> inspect.BoundArguments:
        """The arguments of a call, by name; "state" is None."""
        signature = inspect.signature(FUNCTIONS[name])
        try:
            return signature.bind(
                None,
                *(self._argument(a, name) for k, a in node.args if k is None),
                **{_keyword(k): self._argument(a, name) for k, a in node.args if k},
            )
        except TypeError as problem:
            accepted = ", ".join(list(signature.parameters)[1:])
            raise DataError(f"{node}: {problem}; {name} takes ({accepted})") from None

    def _argument(self, node: Expr, name: str) -> Any:
        """Its value; a column of numbers as the levels that it is asked for, since large ones would lose digits."""
        value, levels = self.value(node), getattr(self.frame, "levels", None)
        if name in LEVELLING and isinstance(node, Name) and isinstance(value, np.ndarray) and levels is not None:
            return levels(node.name)
        return value

    def _apply(self, node: Call, name: str, bound: inspect.BoundArguments) -> tuple[Any, Any]:
        try:
            with np.errstate(all="ignore"):
                return FUNCTIONS[name](*bound.args, **bound.kwargs)
        except RefusedError as problem:
            raise DataError(f"{node}: {problem}") from None

    def _learner(self, node: Call) -> "_Evaluator":
        """The evaluator on the rows that a call learns from."""
        present = getattr(self.frame, "present", None)
        frame = self.frame if present is None else present([n for n in names(node) if n in self.frame])
        return self if frame is self.frame else _Evaluator(frame, self.memory, True, self.anew)


def _finite_only(bound: inspect.BoundArguments) -> inspect.BoundArguments:
    """Without the rows whose value is not finite, from which nothing can be learnt; itself where there are none.

    Where such a row counts, its own value is refused later, by its name.
    """
    x = bound.arguments.get("x")
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim != 1:
        return bound
    finite = np.isfinite(x)
    if finite.all() or not finite.any():
        return bound
    some = inspect.BoundArguments(bound.signature, bound.arguments.copy())
    some.arguments["x"] = x[finite]
    return some


def _keyword(name: str) -> str:
    return name.replace(".", "_")


def _only(node: Call) -> Expr:
    if len(node.args) != 1 or node.args[0][0] is not None:
        raise DataError(f"{node}: {node.func} takes one argument")
    return node.args[0][1]


def _truth(value: Any, what: object) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(as_number(value, what), dtype=float)
    return (x != 0) & ~np.isnan(x), np.isnan(x)


def _same_text(left: Any, right: Any, node: Binary) -> Levels:
    factor, text = (left, right) if isinstance(right, str) else (right, left)
    if not isinstance(factor, Levels):
        raise DataError(f"{node} compares numbers with a text")
    return _member(factor, (text,), node, unequal=node.op == "!=")


def _member(value: Any, wanted: Any, node: Binary, *, unequal: bool = False) -> Levels:
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    if any(not isinstance(w, str | float | bool) for w in wanted):
        raise DataError(f"{node}: the right side is a constant, as in x %in% c(1, 2)")
    if isinstance(value, Levels):
        texts = [w if isinstance(w, str) else number_text(float(w)) for w in wanted]
        hit = np.append(np.isin(value.labels.astype(str), texts), False)[value.codes]
        missing = (value.codes < 0) if node.op != "%in%" else None
    else:
        hit = np.isin(as_number(value, node.left), [w for w in wanted if not isinstance(w, str)])
        missing = None
    return logical(hit != unequal, missing)


def _power(a: Any, b: Any) -> Any:
    return np.asarray(a, dtype=float) ** b


_COMPARE: dict[str, Callable] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
}
_ARITHMETIC: dict[str, Callable] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": _power,
    "%%": np.mod,
    "%/%": np.floor_divide,
    **_COMPARE,
}
