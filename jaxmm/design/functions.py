"""The functions that a formula may call, each from values to a value.

    elementwise    x -> f(x)
    takes          (None, x, options) -> (value, None)
    learns         (state, x, options) -> (value, state): `poly`, `scale`, `center`, `bs`, `ns`, and `mean`, `sd`,
                   `min`, `max`, `median`, which depend on the whole column; the state is None where they learn it

To add one: an entry in `ELEMENTWISE`, or a function decorated with `@takes` or `@learns`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.design.columns import Column, DataError, Levels
from jaxmm.design.splines import bs_basis, bs_knots, ns_basis, ns_knots
from jaxmm.design.syntax import number_text, position_text


@dataclass(frozen=True)
class Matrix:
    """A variable of several columns, `names` the suffixes of their names."""

    values: np.ndarray
    names: tuple[str, ...]


class RefusedError(Exception):
    """An argument out of range; becomes a DataError with the text of the call."""


def as_number(value: Any, what: object) -> Any:
    """Numbers of a value; a logical counts 0 and 1."""
    if isinstance(value, Levels):
        if value.logical:
            return value.numbers()
        raise DataError(
            f"{what} holds text or categories where numbers are due{value.example}; "
            "if the texts are numbers, convert the column (pandas.to_numeric)"
        )
    if isinstance(value, Matrix):
        raise DataError(f"{what} has {value.values.shape[1]} columns where one is due")
    if isinstance(value, str | tuple):
        raise DataError(f"{what} is not a number")
    return value


ELEMENTWISE: dict[str, Callable] = {
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
# Every function that a formula may call.
FUNCTIONS: dict[str, Callable] = {"I": lambda x: x, "c": lambda *x: x, **ELEMENTWISE}


LEARNING: set[str] = set()  # of these, those that depend on the whole column
LEVELLING = ("factor", "as.factor", "ordered", "as.ordered")  # those that make levels of numbers


def takes(*names: str) -> Callable[[Callable], Callable]:
    """Registers `function(None, x, *arguments) -> (value, None)`."""

    def register(function: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


def learns(*names: str) -> Callable[[Callable], Callable]:
    """Registers `function(state, x, *arguments) -> (value, what to remember)`; `state` is None where it learns."""
    LEARNING.update(names)
    return takes(*names)


def _number(x: Any) -> Any:
    try:
        return as_number(x, "the first argument")
    except DataError as problem:
        raise RefusedError(str(problem)) from None


def _numbers(x: Any) -> np.ndarray:
    x = _number(x)
    if np.ndim(x) != 1:
        raise RefusedError("the first argument is a column")
    return np.asarray(x, dtype=np.float64)


def _scalar(x: Any, what: str) -> float:
    if isinstance(x, np.ndarray | Levels | Matrix | tuple | str):
        raise RefusedError(f"{what} is a single number")
    return float(x)


@takes("log")
def _log(state: Any, x: Any, base: Any = None) -> tuple:
    x = _number(x)
    return (np.log(x) if base is None else np.log(x) / np.log(_scalar(base, "the base"))), None


@takes("round")
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
    learns(_name)(_statistic(_function))


@takes(*LEVELLING[:2])
def _factor(state: Any, x: Any, levels: Any = None, ordered: bool = False) -> tuple:
    return _as_levels(state, x, levels, bool(ordered))


@takes(*LEVELLING[2:])
def _ordered(state: Any, x: Any, levels: Any = None) -> tuple:
    return _as_levels(state, x, levels, True)


def _as_levels(state: Any, x: Any, levels: Any, ordered: bool) -> tuple:
    if isinstance(x, Matrix) or not isinstance(x, np.ndarray | Levels):
        raise RefusedError("the first argument is a column")
    if isinstance(x, np.ndarray):
        missing = np.isnan(x)
        x = Column("", "number", x, missing if missing.any() else None).levels
    ordered = ordered or x.ordered
    if levels is not None:
        chosen = levels if isinstance(levels, tuple) else (levels,)
        labels = np.array([v if isinstance(v, str) else number_text(float(v)) for v in chosen], dtype=object)
        x, unknown = x.onto(labels)
        if unknown:
            raise RefusedError(f"the column also holds {', '.join(map(repr, unknown[:5]))}, which levels= leaves out")
    return Levels(x.codes, x.labels, ordered), None


@takes("as.numeric")
def _as_numeric(state: Any, x: Any) -> tuple:
    if not isinstance(x, Levels) or x.logical:
        return _number(x), None
    try:
        values = np.array([float(v) for v in x.labels] + [np.nan])
    except ValueError:
        raise RefusedError(
            f"the labels are not all numbers (such as {str(x.labels[0])!r}); R would number the levels: "
            "make that column yourself if it is meant"
        ) from None
    return values[x.codes], None


@takes("pos")
def _pos(state: Any, *coordinates: Any) -> tuple:
    """A level for each position, named by its coordinates, in their order."""
    if not coordinates:
        raise RefusedError("pos takes coordinates: pos(x, y)")
    at = np.column_stack([_numbers(x) for x in coordinates])
    there = np.isfinite(at).all(axis=1)
    found, own = np.unique(at[there], axis=0, return_inverse=True)
    codes = np.full(len(at), -1, np.int32)
    codes[there] = own.ravel()
    return Levels(codes, np.array([position_text(row) for row in found], dtype=object)), None


@learns("scale")
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
            raise RefusedError("the column is constant and cannot be scaled")
        state = (middle, size)
    return (x - state[0]) / state[1], state


@learns("center")
def _center(state: Any, x: Any) -> tuple:
    x = _numbers(x)
    state = float(np.mean(x)) if state is None else state
    return x - state, state


@learns("poly")
def _poly(state: Any, x: Any, degree: Any = 1, raw: Any = False, simple: Any = False) -> tuple:
    x = _numbers(x)
    k = int(_scalar(degree, "the degree"))
    if k < 1:
        raise RefusedError("the degree is at least 1")
    names = tuple(str(i) for i in range(1, k + 1))
    if raw:
        return Matrix(x[:, None] ** np.arange(1, k + 1), names), ()
    if state is None and len(np.unique(x)) <= k:
        raise RefusedError(f"a polynomial of degree {k} needs more than {k} distinct values")
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


@learns("bs")
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
            raise RefusedError(state)
    basis = bs_basis(x, *state)
    return Matrix(basis, tuple(str(i + 1) for i in range(basis.shape[1]))), state


@learns("ns")
def _ns(
    state: Any, x: Any, df: Any = None, knots: Any = None, intercept: Any = False, Boundary_knots: Any = None
) -> tuple:
    x = _numbers(x)
    if state is None:
        state = ns_knots(x, _count(df), _points(knots), bool(intercept), _points(Boundary_knots))
        if isinstance(state, str):
            raise RefusedError(state)
    basis = ns_basis(x, *state)
    return Matrix(basis, tuple(str(i + 1) for i in range(basis.shape[1]))), state


def _count(df: Any) -> int | None:
    return None if df is None else int(_scalar(df, "df"))


def _points(knots: Any) -> np.ndarray | None:
    if knots is None:
        return None
    return np.atleast_1d(np.array(knots, dtype=np.float64))
