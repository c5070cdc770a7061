"""The search: the trust-region step, saddles, ends, the settings; and the same optimum by every way to it."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, oracle_deviance, quick_jit

import jaxmm as mm
from jaxmm.optimize import Control, Objective, Status, as_control, minimise, minimise_in_loop, region, search_again


@dataclass(frozen=True)
class Known:
    """A function with its derivatives, in NumPy or JAX as its argument is."""

    value: Callable
    gradient: Callable
    hessian: Callable

    def on_host(self, rough=None) -> Objective:
        def gradient(x):
            return float(self.value(x)), np.array(self.gradient(x)), None

        def hessian(x):
            return float(self.value(x)), np.array(self.gradient(x)), np.array(self.hessian(x)), None

        return Objective(gradient, hessian, rough is not None, rough)

    def in_loop(self, start, control=Control()):  # noqa: B008 (frozen)
        def evaluate(x, carried):
            hessian = jnp.stack([jnp.stack(row) for row in self.hessian(x)])
            return self.value(x), jnp.stack(self.gradient(x)), hessian, carried

        return quick_jit(lambda start: minimise_in_loop(evaluate, start, control))(start)


QUADRATIC = Known(
    lambda x: 50 * x[0] ** 2 + 0.5 * x[1] ** 2 + 0.5 * x[0] * x[1] - 3 * x[0] + 7.0,
    lambda x: [100 * x[0] + 0.5 * x[1] - 3, x[1] + 0.5 * x[0]],
    lambda x: [[100 + 0 * x[0], 0.5 + 0 * x[0]], [0.5 + 0 * x[0], 1 + 0 * x[0]]],
)
ROSENBROCK = Known(
    lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2,
    lambda x: [400 * x[0] * (x[0] ** 2 - x[1]) + 2 * (x[0] - 1), 200 * (x[1] - x[0] ** 2)],
    lambda x: [[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200 + 0 * x[0]]],
)
# even in each coordinate and so stationary at zero, as a deviance is in theta; minima at (±1, ±2)
EVEN = Known(
    lambda x: (x[0] ** 2 - 1) ** 2 + 0.1 * (x[1] ** 2 - 4) ** 2,
    lambda x: [4 * x[0] * (x[0] ** 2 - 1), 0.4 * x[1] * (x[1] ** 2 - 4)],
    lambda x: [[12 * x[0] ** 2 - 4, 0 * x[0]], [0 * x[0], 1.2 * x[1] ** 2 - 1.6]],
)
# minima closer to the saddle than the first step away from it goes: even(0) < even(0.3)
NARROW = Known(
    lambda x: sum(100 * (t**2 - 0.01) ** 2 for t in x),
    lambda x: [400 * t * (t**2 - 0.01) for t in x],
    lambda x: [[(1200 * t**2 - 4) * (i == k) for k in range(len(x))] for i, t in enumerate(x)],
)
# finite to the right of zero only; a minimum at 1, bent downwards beyond 2
WALL = Known(
    lambda x: np.log(x[0]) + 1 / x[0], lambda x: [1 / x[0] - x[0] ** -2], lambda x: [[2 * x[0] ** -3 - x[0] ** -2]]
)


# ---------------------------------------------------------------- the step
@pytest.mark.parametrize("radius", [1e-3, 0.5, 1e6])
@pytest.mark.parametrize("kind", ["positive", "indefinite", "singular"])
def test_the_step_solves_its_trust_region_problem(kind, radius):
    """s = -(|H| + mu)^-1 g with mu >= 0, |s| <= radius, mu (radius - |s|) = 0 (Conn, Gould & Toint 2000, §7.2)."""
    rng = np.random.default_rng(3)
    w = {"positive": [0.5, 2.0, 30.0], "indefinite": [-4.0, 0.5, 2.0], "singular": [0.0, 1.0, 3.0]}[kind]
    Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    H, g = Q @ np.diag(w) @ Q.T, rng.normal(size=3)
    step = region.newton_step(np, g, np.linalg.eigh(H), radius)
    s = step.move
    assert step.length <= radius * (1 + 1e-8)
    absolute = Q @ np.diag(np.maximum(np.abs(w), 1e-10 * np.max(np.abs(w)))) @ Q.T
    mu = -(s @ (absolute @ s + g)) / (s @ s)
    assert mu > -1e-8
    close(absolute @ s + mu * s, -g, 1e-6)
    if radius < np.linalg.norm(np.linalg.solve(absolute, g)):
        np.testing.assert_allclose(step.length, radius, rtol=1e-6)
    np.testing.assert_allclose(step.predicted, -(g @ s + 0.5 * s @ H @ s), rtol=1e-8)
    assert step.predicted > 0 and g @ s < 0
    np.testing.assert_allclose(step.decrement, 0.5 * g @ np.linalg.solve(absolute, g), rtol=1e-6)
    np.testing.assert_allclose(step.eigenvalue, w[0], atol=1e-12)
    np.testing.assert_allclose(H @ step.direction, w[0] * step.direction, atol=1e-12)


# ---------------------------------------------------------------- known functions
@pytest.mark.parametrize("way", ["Newton", "rank-one updates", "L-BFGS", "compiled loop"])
@pytest.mark.parametrize(
    ("known", "start", "end", "most"),
    [
        (QUADRATIC, [5.0, -40.0], np.linalg.solve([[100, 0.5], [0.5, 1]], [3, 0]), 12),
        (ROSENBROCK, [-1.2, 1.0], [1.0, 1.0], 40),
        (EVEN, [0.0, 0.0], [1.0, 2.0], 30),
        (EVEN, [1e-9, -1e-9], [1.0, 2.0], 30),
        (NARROW, [0.0] * 8, [0.1] * 8, 90),
    ],
    ids=["quadratic", "Rosenbrock", "from a maximum", "from near a maximum", "a narrow saddle, eight times"],
)
def test_every_way_finds_the_minimum(known, start, end, most, way, x64):
    start = np.array(start)
    if way == "compiled loop":
        found = known.in_loop(start)
    else:
        rough = (lambda x: np.diag(x**2)) if way == "rank-one updates" else None
        found = minimise(known.on_host(rough), start, Control(newton_limit=1 if way == "L-BFGS" else 30))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(np.abs(found.theta) if known in (EVEN, NARROW) else found.theta, end, atol=1e-6)
    assert found.decrement < 1e-9 and found.eigenvalue > 0
    assert found.iterations <= most * (3 if way == "rank-one updates" else 1)
    np.testing.assert_allclose(found.hessian, known.hessian(found.theta), rtol=1e-3, atol=1e-4)


def test_ends_are_states_not_exceptions(x64):
    start = np.array([-1.2, 1.0])
    short = minimise(ROSENBROCK.on_host(), start, Control(max_iterations=3))
    assert short.status == Status.MAX_ITERATIONS and short.iterations == 3
    assert np.isfinite(short.value) and "raise control.max_iterations" in short.status.message
    assert ROSENBROCK.in_loop(start, Control(max_iterations=3)).status == Status.MAX_ITERATIONS
    with np.errstate(invalid="ignore"):
        broken = minimise(WALL.on_host(), np.array([-1.0]), Control())
    assert broken.status == Status.NOT_FINITE and "not finite" in broken.status.message
    nan = Known(lambda x: np.nan * x[0], lambda x: [x[0]], lambda x: [[x[0]]])
    assert nan.in_loop(np.array([1.0])).status == Status.NOT_FINITE


def test_a_saddle_is_seen_through_rounding():
    """Where rounding hides what a short step gains, the search is near: it must leave the saddle, not end there."""
    start = np.array([5e-5, 2.0])
    lucky = Known(lambda x: EVEN.value(x) - 1e-8 * np.all(x == start), EVEN.gradient, EVEN.hessian)
    found = minimise(lucky.on_host(), start, Control())
    assert found.status == Status.CONVERGED and found.eigenvalue > 0
    np.testing.assert_allclose(found.theta, [1.0, 2.0], atol=1e-8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("start", [0.05, 3.0])
def test_a_wall_of_values_that_are_not_finite_is_stepped_around(start, x64):
    found = minimise(WALL.on_host(), np.array([start]), Control())
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.theta, 1.0, rtol=1e-6)


# ---------------------------------------------------------------- settings
def test_control_says_what_it_accepts():
    assert as_control(None) == Control() and as_control({"tolerance": 1e-6}) == Control(tolerance=1e-6)
    with pytest.raises(ValueError, match="tolerance must be a positive number, not 0"):
        Control(tolerance=0)
    with pytest.raises(ValueError, match="max_iterations must be a whole number of at least 1, not 0"):
        as_control({"max_iterations": 0})
    with pytest.raises(TypeError, match="no setting 'tol'; accepted: tolerance, max_iterations"):
        as_control({"tol": 1e-6})
    with pytest.raises(TypeError, match="Control or a dict, not float"):
        as_control(1e-6)


# ---------------------------------------------------------------- of a model
@pytest.fixture(scope="module")
def several(sleep_reml):
    """Random intercepts and slopes: three variance parameters."""
    return sleep_reml.model, sleep_reml


def test_the_estimate_is_a_minimum_of_the_criterion_written_out(several):
    m, fit = several
    assert fit.converged and fit.diagnostics.decrement < 1e-9
    np.testing.assert_allclose(fit.deviance, oracle_deviance(m, fit.theta), rtol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(20):
        elsewhere = fit.theta + 0.1 * rng.normal(size=len(fit.theta))
        assert oracle_deviance(m, elsewhere) > fit.deviance


@pytest.mark.parametrize("start", [[0.05] * 3, [20.0] * 3, [-1.0, 0.3, -2.0], [0.0] * 3, "the estimate"])
def test_every_start_ends_at_the_same_optimum(several, start):
    m, fit = several
    again = m.fit(start=fit.theta if isinstance(start, str) else start)
    assert again.converged
    np.testing.assert_allclose(again.deviance, fit.deviance, atol=1e-9)
    np.testing.assert_allclose(again.theta, fit.theta, atol=1e-5)
    if isinstance(start, str):
        assert again.diagnostics.iterations <= 2


def test_quasi_newton_finds_the_same_optimum(several):
    m, fit = several
    again = m.fit(control={"newton_limit": 1})
    assert again.converged
    np.testing.assert_allclose(again.theta, fit.theta, atol=1e-6)


def test_a_fit_cut_short_says_so(several):
    m, _ = several
    fit = m.fit(control={"max_iterations": 1})
    assert not fit.converged and fit.diagnostics.status == Status.MAX_ITERATIONS
    assert "iteration limit" in fit.diagnostics.status_message and "iteration limit" in str(fit)


def test_estimate_in_one_program_is_the_fit(sleep_reml):
    """mm.estimate: the compiled loop, and the same as the search from the host."""
    with jax.enable_x64(True):
        found = quick_jit(mm.estimate)(sleep_reml.model.arrays)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.theta, sleep_reml.theta, rtol=1e-7)
    np.testing.assert_allclose(found.beta, sleep_reml.fixef, rtol=1e-10)
    np.testing.assert_allclose(found.vcov, sleep_reml.vcov(), rtol=1e-7)
    np.testing.assert_allclose(found.deviance, sleep_reml.deviance, rtol=1e-13)


# ---------------------------------------------------------------- values that are estimates
@pytest.mark.parametrize("dear", [False, True])
def test_a_value_with_noise(dear):
    """Values and slopes off by up to a stated amount, another one at each point: the search ends within it, and says
    that it has converged; that which is not told of the noise takes it for a minimum of its own."""
    noise, rng = 1e-3, np.random.default_rng(0)

    def noisy(x):
        value, g = ROSENBROCK.value(x), np.array(ROSENBROCK.gradient(x))
        return value + noise * rng.uniform(-1, 1), g + noise * rng.uniform(-1, 1, 2)

    def gradient(x):
        return *noisy(x), None

    def hessian(x):
        return *noisy(x), np.array(ROSENBROCK.hessian(x)), None

    told, untold = [], []
    for start in rng.normal(size=(20, 2)):
        for known, found in ((noise, told), (0.0, untold)):
            rough = (lambda x: np.eye(2)) if dear else None
            objective = Objective(gradient, hessian, dear, rough, noise=known)
            found.append(minimise(objective, start, Control(max_iterations=60)))
    assert all(s.status == Status.CONVERGED and s.iterations < 60 for s in told)
    assert max(ROSENBROCK.value(s.theta) for s in told) < 4 * noise
    assert any(s.status != Status.CONVERGED for s in untold)


def test_luck_is_no_lower_minimum():
    """A second search that comes to the same minimum is not taken for a better one because its value fell lower; one
    that comes to another minimum is."""
    noise, rng = 1e-2, np.random.default_rng(0)

    def hessian(x):  # minima at -1 and, lower by 0.2, near 1
        value = 4 * (x[0] ** 2 - 1) ** 2 - 0.1 * x[0] + noise * rng.uniform(-1, 1)
        return value, 16 * x * (x**2 - 1) - 0.1, np.array([[48 * x[0] ** 2 - 16]]), None

    def gradient(x):
        value, g, _, aux = hessian(x)
        return value, g, aux

    def searched(known, start):
        objective, control = Objective(gradient, hessian, noise=known), Control(max_iterations=60)
        found = minimise(objective, np.array([-1.2]), control)
        return [found, search_again(objective, found, np.array([start]), control)]

    same = [searched(noise, -0.7) for _ in range(20)]
    assert all(again is found for found, again in same)
    assert any(again is not found for found, again in (searched(0.0, -0.7) for _ in range(20)))
    lower = [searched(noise, 0.8)[1] for _ in range(20)]
    assert all(s.status == Status.CONVERGED and s.theta[0] > 0.9 for s in lower)
