"""Estimates as functions of y, weights and offset: the arrays, and derivatives against fitting again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from glmm_fits import fitted as glmm_fitted
from helpers import close, quick_jit, says

import jaxmm as mm


def test_arrays_are_those_of_the_model(weighted, x64):
    """As they are, and with another response, weights and offset; of both kinds of model."""
    d = weighted.model.design
    rng = np.random.default_rng(0)
    y, w, o = d.y + rng.normal(size=120), rng.uniform(0.5, 2, 120), rng.normal(size=120)
    data = {"y": y, "x": d.X[:, 1], "g": d.factors[0].codes, "h": d.factors[1].codes, "w": w, "o": o}
    other = mm.Model.from_formula(weighted.formula, data, weights="w", offset="o")
    theta = weighted.theta * 1.1
    deviance = quick_jit(mm.deviance)
    close(deviance(theta, weighted.model.arrays_for()), deviance(theta, weighted.model.arrays), 1e-13)
    moved = weighted.model.arrays_for(y, weights=w, offset=o)
    close(deviance(theta, moved), deviance(theta, other.arrays), 1e-12)
    with says(ValueError, "weights must have shape (120,)", "not (3,)"):
        weighted.model.arrays_for(weights=np.ones(3))


def moves(n: int) -> list[np.ndarray]:
    """Directions in y, weights and offset."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=n) * scale for scale in (0.5, 0.1, 0.3)]


def compare(estimates, tolerance: float) -> None:
    """Derivatives along a direction, by forward mode against fourth-order differences of whole fits."""
    values = jax.jit(estimates)
    near, far = (jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), values(h), values(-h)) for h in (4e-3, 8e-3))
    expected = jax.tree.map(lambda a, b: (8 * a - b) / (12 * 4e-3), near, far)
    found = jax.jit(lambda h: jax.jvp(estimates, (h,), (1.0,))[1])(0.0)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * np.max(np.abs(value)), err_msg=name)


def test_derivatives_of_a_linear_fit(weighted, x64):
    model, d = weighted.model, weighted.model.design
    control = mm.Control(tolerance=1e-13)
    dy, dw, do = moves(120)

    def estimates(h):
        arrays = model.arrays_for(d.y + h * dy, weights=d.weights + h * dw, offset=d.offset + h * do)
        e = mm.estimate(arrays, start=weighted.theta, control=control)
        return {"beta": e.beta, "theta": e.theta, "sigma": e.sigma, "deviance": e.deviance, "vcov": e.vcov}

    compare(estimates, 1e-6)


def test_derivatives_of_a_generalised_fit(x64):
    fit = glmm_fitted("crossed")
    model, d = fit.model, fit.model.design
    control = mm.Control(tolerance=1e-13)
    dy, dw, do = moves(len(d.y))

    def estimates(h):
        arrays = model.arrays_for(d.y + h * dy * d.y, weights=1 + h * dw, offset=h * do)
        e = mm.estimate(arrays, start=mm.Parameters(fit.fixef.to_numpy(), fit.theta, ()), control=control)
        return {"beta": e.beta, "theta": e.theta, "deviance": e.deviance}

    compare(estimates, 1e-6)


def test_reverse_mode_and_many_at_once(sleep_reml, x64):
    """θ has no unit: the gradient is orthogonal to y, and half as large for twice the response."""
    model, y = sleep_reml.model, sleep_reml.model.design.y

    def slope(y):
        return mm.estimate(model.arrays_for(y), start=sleep_reml.theta).theta[0]

    gradient = quick_jit(jax.vmap(jax.grad(slope)))(jnp.stack([y, y * 2.0]))
    forward = quick_jit(lambda t: jax.jvp(slope, (y,), (t,))[1])
    t = np.random.default_rng(2).normal(size=180)
    assert float(forward(t)) == pytest.approx(float(gradient[0] @ t), rel=1e-8)
    np.testing.assert_allclose(gradient[0] @ y, 0, atol=1e-6)
    close(gradient[1], gradient[0] / 2, 1e-6)
