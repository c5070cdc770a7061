"""The search for conditional modes, of any form of linear algebra: here one number for each part."""

import jax.numpy as jnp
import numpy as np
from helpers import quick_jit

from jaxmm.objective.mode import SLACK, TOLERANCE, Newton, search

CENTRE = np.array([0.0, 0.3, 3.0, -40.0, 2.0])


def step_of(h):
    def step(u, at, seeking, clip):
        slope, curvature = at
        full = -slope / jnp.where(clip, jnp.abs(curvature), curvature)
        return full, -0.5 * slope * full

    return Newton(h, step, jnp.where)


def found(newton, start):
    infinite = jnp.full(len(start), jnp.inf)
    return quick_jit(lambda u: search(newton, u, infinite, False, TOLERANCE, SLACK))(jnp.asarray(start))


def test_steps_that_rise_are_halved_part_by_part(x64):
    """h = log cosh(u - c), from which full steps run away beyond |u - c| = 1.1."""

    def h(u):
        t = jnp.tanh(u - CENTRE)
        return jnp.logaddexp(u - CENTRE, CENTRE - u), (t, 1 - t**2 + 1e-12)

    end = found(step_of(h), CENTRE + np.array([0.0, 0.1, 1.5, -3.0, 2.0]))
    assert np.all(end.closing) and 5 < end.iteration < 60
    np.testing.assert_allclose(end.u, CENTRE, atol=1e-9)


def test_a_start_without_a_value_begins_at_zero(x64):
    """h = (u - c)², not finite beyond 100."""

    def h(u):
        return jnp.where(jnp.abs(u) < 100, (u - CENTRE) ** 2, jnp.inf), (2 * (u - CENTRE), jnp.full(len(u), 2.0))

    end = found(step_of(h), [0.0, 500.0, -1e9, np.nan, 50.0])
    assert np.all(end.closing)
    np.testing.assert_allclose(end.u, CENTRE, atol=1e-12)


def test_where_the_curvature_is_negative_one_step_is_made_without_it(x64):
    """h = (u² - 1)² from close to its maximum at zero."""

    def h(u):
        return (u**2 - 1) ** 2, (4 * u * (u**2 - 1), 12 * u**2 - 4)

    end = found(step_of(h), [0.01, -0.01, 0.3, -0.3, 2.0])
    assert np.all(end.closing)
    np.testing.assert_allclose(end.u, [1, -1, 1, -1, 1], atol=1e-8)
