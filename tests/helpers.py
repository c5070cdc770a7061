"""What the tests of the numerical core share: models of the problems, an oracle in NumPy, finite differences."""

from __future__ import annotations

import dataclasses
import re
from functools import cache, partial

import jax
import numpy as np
import pytest
from problems import PROBLEMS, Problem

import jaxmm as mm
from jaxmm._compiled import quick_options
from jaxmm.gram import Gram


def replanned(model: mm.Model, **changes) -> mm.Model:
    """The model eliminated in another way: ``chain``, ``rest`` (indices of factors) or ``sparse`` replaced."""
    plan = dataclasses.replace(model.elimination, **changes)
    return mm.Model(model.design, model.likelihood, elimination=plan)


def model_of(problem: Problem, **changes) -> mm.Model:
    p = dataclasses.replace(problem, **changes)
    model = mm.Model.from_arrays(p.y, p.X, p.terms, reml=p.reml, weights=p.weights, offset=p.offset)
    return model if p.sparse is None else replanned(model, sparse=p.sparse)


@cache
def model(name: str, reml: bool = True) -> mm.Model:
    """The model of a problem, made once."""
    return model_of(PROBLEMS[name], reml=reml)


# ---------------------------------------------------------------- the oracle: V written out, original columns
def covariance_of(model: mm.Model, theta: np.ndarray) -> np.ndarray:
    """V = W^-1 + Σ ZΛΛ'Z' (n, n), from the rows and the formula's columns, relative to sigma²."""
    d = model.design
    n = len(d.y)
    V = np.diag(np.ones(n) if d.weights is None else 1 / d.weights)
    for (t, layout), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        lam = layout.covariance.factor(np.asarray(theta)[at])
        codes, ZL = d.factors[d.terms[t].factor].codes, d.terms[t].Z @ lam
        V += (codes[:, None] == codes[None, :]) * (ZL @ ZL.T)
    return V


def oracle_deviance(model: mm.Model, theta: np.ndarray) -> float:
    """-2 log-likelihood, restricted or not, by generalised least squares from V."""
    d = model.design
    y = d.y if d.offset is None else d.y - d.offset
    L = np.linalg.cholesky(covariance_of(model, theta))
    X, y = np.linalg.solve(L, d.X), np.linalg.solve(L, y)
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    df = len(y) - (X.shape[1] if model.reml else 0)
    value = 2 * np.sum(np.log(np.diag(L))) + df * (1 + np.log(2 * np.pi * np.sum((y - X @ beta) ** 2) / df))
    return value + (np.linalg.slogdet(X.T @ X)[1] if model.reml and X.shape[1] else 0.0)


# ---------------------------------------------------------------- derivatives
# optimising the code is most of the time of a compilation and no part of the mathematics
quick_jit = partial(jax.jit, compiler_options=quick_options())


def _derivatives(theta, arrays: Gram):
    def gradient(t):
        value, g = jax.value_and_grad(mm.deviance)(t, arrays)
        return g, (value, g)

    hessian, (value, g) = jax.jacfwd(gradient, has_aux=True)(theta)  # jax.hessian, keeping what it passes by
    return value, g, hessian


# one program per structure for all tests
_batched = quick_jit(jax.vmap(_derivatives, (0, None)))


@cache
def derivatives(name: str, reml: bool = True, **plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mm.deviance, gradients and Hessians at ``points`` of a problem."""
    m = model(name, reml)
    return derivatives_of(replanned(m, **plan) if plan else m)


def derivatives_of(m: mm.Model, theta: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of any model, at other points (3, m)."""
    with jax.enable_x64(True):
        return tuple(np.asarray(x) for x in _batched(points(m) if theta is None else theta, m.arrays))


def points(m: mm.Model) -> np.ndarray:
    """Three values of theta: one in general position, far from the optimum; the same with the sign of the first
    column of each lam changed, which is the same model; and zero, no random effects at all."""
    theta = np.random.default_rng(0).normal(size=m.structure.num_theta) * 0.7
    mirrored = theta.copy()
    for term, at in zip(m.structure.terms, m.structure.slices(), strict=True):
        column = term.covariance.factor(np.arange(1, term.covariance.num_params + 1.0))[:, 0]
        mirrored[at.start + column[column > 0].astype(int) - 1] *= -1
    return np.stack([theta, mirrored, np.zeros_like(theta)])


def central(f, x: np.ndarray, h: float) -> np.ndarray:
    """Derivatives of f by each element of x, on the first axis: fourth-order central differences."""
    columns = []
    for e in np.eye(len(x)) * h:
        near, far = np.subtract(f(x + e), f(x - e)), np.subtract(f(x + 2 * e), f(x - 2 * e))
        columns.append((8 * near - far) / (12 * h))
    return np.array(columns)


def close(actual, expected, rtol: float = 1e-10) -> None:
    """Equal to ``rtol`` of the largest element: what is zero in theory is not compared with itself."""
    expected = np.asarray(expected)
    atol = rtol * np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def says(error: type[Exception], *parts: str):
    """An error of exactly this kind, with these parts in its message, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))
