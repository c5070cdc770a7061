"""Laplace's approximation of a batch in closed form, against the derivatives of the single fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

import jaxmm as mm
from jaxmm.estimate_glmm import value_and_derivatives
from jaxmm.lanes import laplace_table
from jaxmm.lanes.laplace_blocks import value_and_derivatives as closed_form
from jaxmm.objective.mode import zero_effects

LANES = 3


def model(name: str, q: int, p: int = 2, covariance: str = "us") -> mm.Model:
    """Uneven levels, weights, an offset."""
    rng = np.random.default_rng(q)
    codes = np.concatenate([np.arange(9), rng.integers(0, 9, 60)])
    n = len(codes)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, max(p - 1, 0)))])[:, :p]
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))])
    family = mm.families.get(name, "log" if name in ("gamma", "inverse_gaussian") else None)
    more = {"trials": np.full(n, 5.0)} if family.has_trials else {}
    arguments = {"weights": rng.uniform(0.5, 2, n), "offset": 0.1 * rng.normal(size=n), **more}
    if covariance == "two terms":
        terms = [mm.Term(Z[:, :1], codes, "g"), mm.Term(Z[:, 1:], codes, "g")]
    else:
        terms = [mm.Term(Z, codes, "g", kind=covariance)]
    return mm.Model.from_arrays(_responses(name, n)[0], X, terms, family, **arguments)


def _responses(family: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if family in ("binomial", "betabinomial"):
        return rng.integers(0, 6, (LANES, n)) + 0.0
    if family in ("poisson", "nbinom1", "nbinom2"):
        return rng.poisson(1.5, (LANES, n)) + 0.0
    if family == "gaussian":
        return rng.normal(size=(LANES, n))
    return rng.uniform(0.1, 0.9, (LANES, n))


CASES = [(name, 2, 2, "us", name in ("poisson", "gamma")) for name in mm.families.FAMILIES] + [
    ("poisson", 2, 2, "us", False),
    ("gamma", 2, 2, "us", False),
    ("binomial", 1, 0, "us", False),
    ("poisson", 1, 1, "us", False),
    ("poisson", 1, 1, "us", True),
    ("poisson", 3, 4, "us", False),
    ("poisson", 3, 4, "us", True),
    ("poisson", 3, 2, "diag", False),
    ("poisson", 3, 2, "diag", True),
    ("poisson", 2, 2, "two terms", False),
    ("gamma", 1, 3, "us", False),
    ("gamma", 1, 3, "us", True),
]


@pytest.mark.parametrize(("family", "q", "p", "covariance", "counted"), CASES)
def test_closed_form_derivatives(family, q, p, covariance, counted):
    m = model(family, q, p, covariance)
    Y = _responses(family, len(m.design.y))
    with jax.enable_x64(True):
        rows = m.arrays
        assert laplace_table.can_have_table(rows)
        rng = np.random.default_rng(2)
        k = rows.structure.p + rows.structure.num_theta + rows.family.num_phi + rows.family.num_extras
        psi = jnp.asarray(0.5 * rng.normal(size=(k, LANES)))
        if rows.family.link.name == "inverse":
            psi = psi.at[0].add(6.0)
        table = laplace_table.make_table(rows)
        y = jnp.moveaxis(jnp.asarray(Y.T)[rows.source], 0, 1)
        copies = jnp.asarray(rng.integers(0, 4, (rows.weights.shape[1], LANES)) + 0.0) if counted else None
        own = laplace_table.Own(y, jnp.zeros(LANES), copies)
        found = quick_jit(closed_form)(psi, own, laplace_table.modes_from_zero(psi, own, table), table)
        single = quick_jit(lambda psi, r: value_and_derivatives(psi, r, zero_effects(r), 1, False))
        for i in range(LANES):
            lane = rows.with_response(Y[i])
            lane = replace(lane, log_constant=jnp.zeros(()), copies=None if copies is None else (copies[:, i],))
            value, g, H, _ = single(psi[:, i], lane)
            scale = 1 + float(jnp.max(jnp.abs(H)))
            assert float(found.value[i]) == pytest.approx(float(value), abs=1e-8)
            np.testing.assert_allclose(found.gradient[:, i], g, atol=1e-8 * scale)
            np.testing.assert_allclose(found.hessian[:, :, i], H, atol=1e-8 * scale)


def test_closed_form_where_everything_is_a_lane_s_own():
    """Trials, weights, offset and the columns with a lane axis, against the rows of a single fit with the same."""
    m = model("binomial", 1, 2)
    with jax.enable_x64(True):
        rows, table, rng = m.arrays, laplace_table.make_table(m.arrays), np.random.default_rng(3)
        shape = (*rows.weights.shape, LANES)
        y = jnp.asarray(rng.integers(0, 4, shape) + 0.0)
        trials, offset = y + rng.integers(0, 3, shape) + 1.0, jnp.asarray(0.1 * rng.normal(size=shape))
        ratio = jnp.asarray(rng.uniform(0.5, 2.0, shape) * (rng.random(shape) > 0.2))
        X, Z = (jnp.asarray(rng.normal(size=(k, *shape))) for k in (2, 1))
        own = [jnp.swapaxes(x, -3, -2) for x in (y, ratio, offset, trials, X, Z)]
        own = laplace_table.Own(own[0], jnp.zeros(LANES), None, *own[1:])
        psi = jnp.asarray(0.5 * rng.normal(size=(3, LANES)))
        found = quick_jit(closed_form)(psi, own, laplace_table.modes_from_zero(psi, own, table), table)
        single = quick_jit(lambda psi, r: value_and_derivatives(psi, r, zero_effects(r), 1, False))
        for i in range(LANES):
            parts = {"y": y, "offset": offset, "trials": trials, "X": X, "weights": rows.weights[..., None] * ratio}
            lane = replace(rows, log_constant=jnp.zeros(()), Z=(Z[..., i],), **{k: x[..., i] for k, x in parts.items()})
            value, g, H, _ = single(psi[:, i], lane)
            assert float(found.value[i]) == pytest.approx(float(value), abs=1e-8)
            np.testing.assert_allclose(found.gradient[:, i], g, atol=1e-8 * (1 + float(jnp.max(jnp.abs(H)))))
            np.testing.assert_allclose(found.hessian[:, :, i], H, atol=1e-8 * (1 + float(jnp.max(jnp.abs(H)))))
