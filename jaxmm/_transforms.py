"""Expressions of a formula -> values: arithmetic, elementwise functions, and transforms that remember.

`evaluate` turns an expression into numbers (n,), a `Matrix` (n, k) or `Levels`, with the meaning that R
gives it. A transform that depends on the whole column (`poly`, `scale`, `center`, `bs`, `ns`, and `mean`,
`sd`, `min`, `max`, `median` inside I(...)) writes what it learned into `memory` under its own text when the
model is fitted, and reads it there for new data, so that predictions use the fit's centre, knots and
polynomials. (R remembers fewer of them: `I(x - mean(x))` is centred anew at prediction there.)

To add a function: an entry in `_ELEMENTWISE`, or a function decorated with `@remembers`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._columns import Column, DataError, Levels, logical
from ._splines import bs_basis, bs_knots, ns_basis, ns_knots
from ._syntax import Binary, Call, Expr, Name, Number, Paren, Text, Unary, number_text


@dataclass(frozen=True)
class Matrix:
    """A variable of several columns, `names` the suffixes of their names."""

    values: np.ndarray
    names: tuple[str, ...]


Value = np.ndarray | Levels | Matrix
Frame = Mapping[str, np.ndarray | Levels]


def evaluate(node: Expr, frame: Frame, memory: dict[str, Any], *, fitting: bool) -> Any:
    """The value of an expression on the rows of `frame`; a number where it names no column.

    Raises DataError where text or a factor stands for numbers, or an argument is out of range.
    """
    return _Evaluator(frame, memory, fitting).value(node)


class _Evaluator:
    def __init__(self, frame: Frame, memory: dict[str, Any], fitting: bool):
        self.frame = frame
        self.memory = memory
        self.fitting = fitting

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
        if name in _ELEMENTWISE:
            x = self.number(_only(node))
            with np.errstate(all="ignore"):
                return _ELEMENTWISE[name](x)
        function = FUNCTIONS[name]
        try:
            bound = inspect.signature(function).bind(
                None,
                *(self.value(a) for k, a in node.args if k is None),
                **{_keyword(k): self.value(a) for k, a in node.args if k},
            )
        except TypeError as problem:
            accepted = ", ".join(list(inspect.signature(function).parameters)[1:])
            raise DataError(f"{node}: {problem}; {name} takes ({accepted})") from None
        key = str(node)
        state = None if self.fitting else self.memory[key]
        bound.arguments["state"] = state
        try:
            with np.errstate(all="ignore"):
                result, learned = function(*bound.args, **bound.kwargs)
        except _RefusedError as problem:
            raise DataError(f"{node}: {problem}") from None
        if self.fitting:
            self.memory[key] = learned
        return result


class _RefusedError(Exception):
    """An argument out of range; becomes a DataError with the text of the call."""


def _keyword(name: str) -> str:
    return name.replace(".", "_")


def _only(node: Call) -> Expr:
    if len(node.args) != 1 or node.args[0][0] is not None:
        raise DataError(f"{node}: {node.func} takes one argument")
    return node.args[0][1]


def as_number(value: Any, what: object) -> Any:
    """Numbers of a value; a logical counts 0 and 1."""
    if isinstance(value, Levels):
        if value.logical:
            return value.numbers()
        shown = f" (such as {str(value.labels[0])!r})" if len(value.labels) else ""
        raise DataError(
            f"{what} holds text or categories where numbers are due{shown}; "
            "if the texts are numbers, convert the column (pandas.to_numeric)"
        )
    if isinstance(value, Matrix):
        raise DataError(f"{what} has {value.values.shape[1]} columns where one is due")
    if isinstance(value, str | tuple):
        raise DataError(f"{what} is not a number")
    return value


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

_ELEMENTWISE: dict[str, Callable] = {
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "exp": np.exp,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "floor": np.floor,
    "ceiling": np.ceil,
    "sign": np.sign,
    "plogis": lambda x: 0.5 * (1.0 + np.tanh(0.5 * x)),
    "qlogis": lambda x: np.log(x) - np.log1p(-x),
}

# Every function that a formula may call.
FUNCTIONS: dict[str, Callable] = {"I": lambda x: x, "c": lambda *x: x, **_ELEMENTWISE}


def remembers(*names: str) -> Callable[[Callable], Callable]:
    """Registers `function(state, *arguments) -> (value, what to remember)`; `state` is None when fitting."""

    def register(function: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


def _number(x: Any) -> Any:
    try:
        return as_number(x, "the first argument")
    except DataError as problem:
        raise _RefusedError(str(problem)) from None


def _numbers(x: Any) -> np.ndarray:
    x = _number(x)
    if np.ndim(x) != 1:
        raise _RefusedError("the first argument is a column")
    return np.asarray(x, dtype=np.float64)


def _scalar(x: Any, what: str) -> float:
    if isinstance(x, np.ndarray | Levels | Matrix | tuple | str):
        raise _RefusedError(f"{what} is a single number")
    return float(x)


@remembers("log")
def _log(state: Any, x: Any, base: Any = None) -> tuple:
    x = _number(x)
    return (np.log(x) if base is None else np.log(x) / np.log(_scalar(base, "the base"))), None


@remembers("round")
def _round(state: Any, x: Any, digits: Any = 0) -> tuple:
    return np.round(_number(x), int(_scalar(digits, "digits"))), None


def _statistic(function: Callable[[np.ndarray], float]) -> Callable:
    def compute(state: Any, x: Any) -> tuple:
        learned = float(function(_numbers(x))) if state is None else state
        return learned, learned

    return compute


for _name, _function in {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "sd": lambda x: np.std(x, ddof=1),
}.items():
    remembers(_name)(_statistic(_function))


@remembers("factor", "as.factor")
def _factor(state: Any, x: Any, levels: Any = None, ordered: bool = False) -> tuple:
    return _as_levels(state, x, levels, bool(ordered))


@remembers("ordered", "as.ordered")
def _ordered(state: Any, x: Any, levels: Any = None) -> tuple:
    return _as_levels(state, x, levels, True)


def _as_levels(state: Any, x: Any, levels: Any, ordered: bool) -> tuple:
    if isinstance(x, Matrix) or not isinstance(x, np.ndarray | Levels):
        raise _RefusedError("the first argument is a column")
    if isinstance(x, np.ndarray):
        missing = np.isnan(x)
        x = Column("", "number", x, missing if missing.any() else None).levels
    ordered = ordered or x.ordered
    if levels is not None:
        chosen = levels if isinstance(levels, tuple) else (levels,)
        labels = np.array([v if isinstance(v, str) else number_text(float(v)) for v in chosen], dtype=object)
        x, unknown = x.onto(labels)
        if unknown:
            raise _RefusedError(f"the column also holds {', '.join(map(repr, unknown[:5]))}, which levels= leaves out")
    return Levels(x.codes, x.labels, ordered), None


@remembers("as.numeric")
def _as_numeric(state: Any, x: Any) -> tuple:
    if not isinstance(x, Levels) or x.logical:
        return _number(x), None
    try:
        values = np.array([float(v) for v in x.labels] + [np.nan])
    except ValueError:
        raise _RefusedError(
            f"the labels are not all numbers (such as {str(x.labels[0])!r}); R would number the levels: "
            "make that column yourself if it is meant"
        ) from None
    return values[x.codes], None


@remembers("scale")
def _scale(state: Any, x: Any, center: Any = True, scale: Any = True) -> tuple:
    x = _numbers(x)
    if state is None:
        middle = (float(np.mean(x)) if center else 0.0) if isinstance(center, bool) else _scalar(center, "center")
        if isinstance(scale, bool):
            # without centring R divides by the root mean square, with n - 1
            size = float(np.sqrt(np.sum((x - middle) ** 2) / max(1, len(x) - 1))) if scale else 1.0
        else:
            size = _scalar(scale, "scale")
        if not size > 0:
            raise _RefusedError("the column is constant and cannot be scaled")
        state = (middle, size)
    return (x - state[0]) / state[1], state


@remembers("center")
def _center(state: Any, x: Any) -> tuple:
    x = _numbers(x)
    state = float(np.mean(x)) if state is None else state
    return x - state, state


@remembers("poly")
def _poly(state: Any, x: Any, degree: Any = 1, raw: Any = False, simple: Any = False) -> tuple:
    x = _numbers(x)
    k = int(_scalar(degree, "the degree"))
    if k < 1:
        raise _RefusedError("the degree is at least 1")
    names = tuple(str(i) for i in range(1, k + 1))
    if raw:
        return Matrix(x[:, None] ** np.arange(1, k + 1), names), ()
    if state is None and len(np.unique(x)) <= k:
        raise _RefusedError(f"a polynomial of degree {k} needs more than {k} distinct values")
    # Monic orthogonal polynomials by Stieltjes' recursion, P_{i+1} = (x - alpha_i) P_i - (N_i / N_{i-1})
    # P_{i-1} with N_i = |P_i|^2 on the fit's rows, then divided by their norms: R's poly, its signs included.
    fitting = state is None
    alphas, norms = ([], []) if state is None else state
    before, now = np.zeros_like(x), np.ones_like(x)
    columns = np.empty((len(x), k))
    for i in range(k + 1):
        if fitting:
            norms.append(float(now @ now))
        if i > 0:
            columns[:, i - 1] = now / np.sqrt(norms[i])
        if i < k:
            if fitting:
                alphas.append(float(np.mean(x) if i == 0 else (x * now) @ now / norms[i]))
            before, now = now, (x - alphas[i]) * now - (norms[i] / norms[i - 1] if i else 0.0) * before
    return Matrix(columns, names), (alphas, norms)


@remembers("bs")
def _bs(
    state: Any,
    x: Any,
    df: Any = None,
    knots: Any = None,
    degree: Any = 3,
    intercept: Any = False,
    Boundary_knots: Any = None,
) -> tuple:
    x = _numbers(x)
    if state is None:
        state = bs_knots(
            x,
            _count(df),
            _points(knots),
            int(_scalar(degree, "the degree")),
            bool(intercept),
            _points(Boundary_knots),
        )
        if isinstance(state, str):
            raise _RefusedError(state)
    basis = bs_basis(x, *state)
    return Matrix(basis, tuple(str(i + 1) for i in range(basis.shape[1]))), state


@remembers("ns")
def _ns(
    state: Any, x: Any, df: Any = None, knots: Any = None, intercept: Any = False, Boundary_knots: Any = None
) -> tuple:
    x = _numbers(x)
    if state is None:
        state = ns_knots(x, _count(df), _points(knots), bool(intercept), _points(Boundary_knots))
        if isinstance(state, str):
            raise _RefusedError(state)
    basis = ns_basis(x, *state)
    return Matrix(basis, tuple(str(i + 1) for i in range(basis.shape[1]))), state


def _count(df: Any) -> int | None:
    return None if df is None else int(_scalar(df, "df"))


def _points(knots: Any) -> np.ndarray | None:
    if knots is None:
        return None
    return np.atleast_1d(np.array(knots, dtype=np.float64))
