"""A column and knots -> the bases of R's `splines::bs` and `splines::ns`.

`*_knots` chooses the knots from the fit's rows and gives the arguments of `*_basis` (or a text that says why
not); `*_basis` evaluates on any rows. Beyond the boundary knots `bs` goes on with its outermost polynomial
and `ns` linearly, both as R.
"""

import numpy as np


def _boundary(x: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    return np.sort(given) if given is not None else np.array([np.min(x), np.max(x)])


def _inner(x: np.ndarray, boundary: np.ndarray, given: np.ndarray | None, count: int) -> np.ndarray:
    """`count` knots at equally spaced quantiles of the values inside the boundary, or those given."""
    if given is not None:
        return np.sort(given)
    inside = x[(x >= boundary[0]) & (x <= boundary[1])]
    return np.quantile(inside, np.linspace(0.0, 1.0, count + 2)[1:-1]) if count > 0 else np.empty(0)


def bs_knots(
    x: np.ndarray,
    df: int | None,
    knots: np.ndarray | None,
    degree: int,
    intercept: bool,
    boundary: np.ndarray | None,
) -> tuple | str:
    if degree < 1:
        return "the degree is at least 1"
    least = degree + intercept
    if df is not None and df < least:
        return f"df is at least {least} with this degree"
    ends = _boundary(x, boundary)
    if not ends[0] < ends[1]:
        return "the column is constant"
    inner = _inner(x, ends, knots, 0 if df is None else df - least)
    return (
        np.concatenate([np.repeat(ends[0], degree + 1), inner, np.repeat(ends[1], degree + 1)]),
        degree,
        intercept,
    )


def bs_basis(x: np.ndarray, knots: np.ndarray, degree: int, intercept: bool) -> np.ndarray:
    """(n, df): B-splines on the augmented knots, without the first unless `intercept`."""
    basis = _b_splines(x, knots, degree)
    return basis if intercept else basis[:, 1:]


def ns_knots(
    x: np.ndarray, df: int | None, knots: np.ndarray | None, intercept: bool, boundary: np.ndarray | None
) -> tuple | str:
    if df is not None and df < 1 + intercept:
        return f"df is at least {1 + intercept}"
    ends = _boundary(x, boundary)
    if not ends[0] < ends[1]:
        return "the column is constant"
    inner = _inner(x, ends, knots, 0 if df is None else df - 1 - intercept)
    return np.concatenate([np.repeat(ends[0], 4), inner, np.repeat(ends[1], 4)]), intercept


def ns_basis(x: np.ndarray, knots: np.ndarray, intercept: bool) -> np.ndarray:
    """(n, df): cubic B-splines turned so that the second derivative vanishes at both boundary knots."""
    low, high = knots[0], knots[-1]
    first = 0 if intercept else 1
    basis = np.empty((len(x), len(knots) - 4))
    inside = ~((x < low) | (x > high))  # a missing value stays inside, and missing
    basis[inside] = _b_splines(x[inside], knots, 3)
    ends = np.array([low, high])
    value, slope, curvature = (_b_splines(ends, knots, 3, nu) for nu in range(3))
    for end, outside in enumerate((x < low, x > high)):
        basis[outside] = value[end] + (x[outside, None] - ends[end]) * slope[end]
    # The null space of the two constraints from the full Householder factor; LAPACK's reflections have the
    # signs of LINPACK's, which R uses.
    turn = np.linalg.qr(curvature[:, first:].T, mode="complete")[0]
    return basis[:, first:] @ turn[:, 2:]


def _b_splines(x: np.ndarray, knots: np.ndarray, degree: int, nu: int = 0) -> np.ndarray:
    """(n, K): the nu-th derivative of every B-spline, the outermost polynomials extended."""
    from scipy.interpolate import BSpline

    splines = BSpline(knots, np.eye(len(knots) - degree - 1), degree, extrapolate=True)
    return np.asarray(splines(x, nu=nu))
