"""The decisions of the trust region: of many searches as of each, in JAX as in NumPy; and three drivers, one path."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, quick_jit

from jaxmm.lanes.advance import Value, advance, begin
from jaxmm.optimize import RUNNING, Control, Objective, Status, is_better, is_lower, minimise, minimise_in_loop, region

M, L = 3, 60


def searches() -> dict[str, np.ndarray]:
    """What the functions take, of L searches with M parameters, in each of which something may be special."""
    rng = np.random.default_rng(11)
    half, old = rng.normal(size=(2, M, M, L))
    H = (half + np.swapaxes(half, 0, 1)) * 10.0 ** rng.uniform(-3, 3, L)
    w, Q = np.linalg.eigh(np.moveaxis(H, -1, 0))
    move = 10.0 ** rng.uniform(-9, 1, L) * rng.normal(size=(M, L))
    y = np.einsum("abl,bl->al", H, move) + np.where(np.arange(L) % 3, 1.0, 0.0) * rng.normal(size=(M, L))
    value = 1e3 * rng.normal(size=L)
    trial = value + np.where(np.arange(L) % 2, 1e-9, 10.0) * rng.normal(size=L)
    lost_value, lost_g, lost_H = trial.copy(), y.copy(), H.copy()
    lost_value[3], lost_g[1, 4], lost_H[0, 2, 5], lost_H[2, 1, 6] = np.nan, np.inf, np.nan, -np.inf
    flags = rng.uniform(size=(5, L)) < 0.4
    return {
        **dict(H=H, old=old + np.swapaxes(old, 0, 1), w=np.moveaxis(w, -1, 0).copy(), Q=np.moveaxis(Q, 0, -1).copy()),
        **dict(
            theta=10.0 ** rng.uniform(-3, 3, L) * rng.normal(size=(M, L)), g=rng.normal(size=(M, L)), move=move, y=y
        ),
        **dict(value=value, trial=trial, lost_value=lost_value, lost_g=lost_g, lost_H=lost_H, gain=value - trial),
        **dict(predicted=rng.exponential(size=L), length=rng.exponential(size=L), kicks=rng.integers(0, 12, L)),
        **dict(radius=10.0 ** rng.uniform(-13, 2, L), ratio=rng.uniform(-0.5, 1.5, L)),
        **dict(zip(("fresh", "broken", "ended", "stuck", "last"), flags, strict=True)),
    }


def step(xp, g, w, Q, radius):
    return region.newton_step(xp, g, (w, Q), radius)


FUNCTIONS = {
    "newton_step": step,
    "first_radius": lambda xp, theta: region.first_radius(xp, theta),
    "rank_one": lambda xp, H, move, y: region.rank_one(xp, H, move, y),
    "is_finite": lambda xp, lost_value, lost_g, lost_H: region.is_finite(xp, lost_value, lost_g, lost_H),
    "noise": lambda xp, value: region.noise(xp, value, M, region.rounding(xp, value.dtype)),
    "decrease": lambda xp, value, trial, g, y, move: region.decrease(xp, value, trial, g, y, move),
    "agreement": lambda xp, gain, predicted, broken, fresh: region.agreement(xp, gain, predicted, 1e-9, ~broken, fresh),
    "next_radius": lambda xp, ratio, length, radius: region.next_radius(xp, ratio, length, radius),
    "relative_change": lambda xp, H, old: region.relative_change(xp, H, old),
    "visible": lambda xp, value: region.visible(xp, 1e-10, value, region.rounding(xp, value.dtype)),
    "size_of": lambda xp, H: region.size_of(xp, H),
    "is_saddle": lambda xp, g, w, Q, radius, H, kicks: region.is_saddle(
        xp, step(xp, g, w, Q, radius), region.size_of(xp, H), kicks
    ),
    "leave_saddle": lambda xp, broken, g, w, Q, radius: region.leave_saddle(
        xp, broken, step(xp, g, w, Q, radius), radius
    ),
    "is_stuck": lambda xp, radius, theta: region.is_stuck(xp, radius, theta),
    "verdict": lambda xp, broken, ended, stuck, last: region.verdict(xp, broken, ended, stuck, last),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_many_searches_in_jax_are_as_each_in_numpy(name, x64):
    function, has = FUNCTIONS[name], searches()
    args = [has[argument] for argument in list(inspect.signature(function).parameters)[1:]]
    many = jax.tree.map(np.asarray, jax.tree.leaves(quick_jit(lambda *args: function(jnp, *args))(*args)))
    for k in range(L):
        one = jax.tree.leaves(function(np, *(x[..., k] for x in args)))
        for a, b in zip(one, many, strict=True):
            np.testing.assert_allclose(b[..., k], a, rtol=1e-10, atol=1e-200)
    first = many[0]
    assert first.dtype != bool or 0 < first.sum() < L  # both answers have been seen


# ---------------------------------------------------------------- what they say
def test_a_rank_one_update_satisfies_the_secant_or_changes_nothing():
    H, s, y = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, -2.0]), np.array([5.0, 0.0])
    close(region.rank_one(np, H, s, y) @ s, y)
    assert np.array_equal(region.rank_one(np, H, s, H @ s), H)  # already so: 0 / 0
    orthogonal = H @ s + np.array([2.0, 1.0])  # of the residual and s
    assert np.array_equal(region.rank_one(np, H, s, orthogonal), H)


@pytest.mark.parametrize(
    ("ratio", "length", "radius"),
    [
        (0.9, 1.0, 2.5),
        (0.9, 0.5, 1.0),  # the region was not in the way
        (0.5, 1.0, 1.0),
        (0.1, 1.0, 0.25),
        (0.1, 0.4, 0.1),
        (-1.0, 0.4, 0.1),
        (np.nan, 0.4, 0.1),
    ],
)
def test_the_region_grows_and_shrinks(ratio, length, radius):
    assert region.next_radius(np, ratio, length, 1.0) == pytest.approx(radius)


def test_a_first_evaluation_is_taken_and_one_that_is_not_finite_refused():
    assert region.ACCEPTED < region.agreement(np, np.inf, 0.0, 1e-9, True, True) < region.GOOD
    assert region.agreement(np, np.nan, 1.0, 1e-9, False, True) < region.ACCEPTED
    assert region.agreement(np, -1e-12, 1e-12, 1e-9, True) == pytest.approx(1.0, abs=0.01)  # both are rounding


def test_the_first_of_the_reasons_to_end_counts():
    said = [int(region.verdict(np, *(k == 3 - i or k > 3 for i in range(4)))) for k in range(5)]
    assert said == [
        Status.MAX_ITERATIONS,
        Status.STALLED,
        Status.CONVERGED,
        Status.NOT_FINITE,
        Status.NOT_FINITE,
    ]
    assert region.verdict(np, False, False, False, False) == RUNNING


def test_which_of_two_ends_is_better():
    good, bad = Status.CONVERGED, Status.STALLED
    for lower, status, first, better in (
        (True, good, good, True),
        (True, good, bad, True),
        (True, bad, bad, True),
        (True, bad, good, False),
        (False, good, good, False),
        (False, good, bad, True),
        (False, bad, bad, False),
        (False, bad, good, False),
    ):
        value = 4.9 if lower else 5.0 - 1e-8
        assert is_lower(value, 5.0) == lower
        assert is_better(value, status, 5.0, first) == better
        arrays = (np.array([x]) for x in (value, int(status), 5.0, int(first)))
        assert is_better(*arrays)[0] == better


# ---------------------------------------------------------------- three drivers
def valley(x, xp):
    """Rosenbrock's, chained: value, gradient and Hessian written out, for x (m, ..)."""
    m, zero = len(x), 0 * x[0]
    value, g, H = zero, [zero] * m, [[zero] * m for _ in range(m)]
    for i in range(m - 1):
        a, b = x[i], x[i + 1]
        value = value + 100 * (b - a**2) ** 2 + (1 - a) ** 2
        g[i] = g[i] + 400 * a * (a**2 - b) + 2 * (a - 1)
        g[i + 1] = g[i + 1] + 200 * (b - a**2)
        H[i][i] = H[i][i] + 1200 * a**2 - 400 * b + 2
        H[i][i + 1], H[i + 1][i] = -400 * a, -400 * a
        H[i + 1][i + 1] = H[i + 1][i + 1] + 200
    return value, xp.stack(g), xp.stack([xp.stack(row) for row in H])


def on_host(start, steps):
    trials = []

    def hessian(x):
        trials.append(x)
        return *valley(x, np), None

    found = minimise(Objective(lambda x: (*hessian(x)[:2], None), hessian), start, Control(max_iterations=steps))
    return found.theta, found.value, len(trials) - 1, found.status


def in_loop(start, steps):
    def search(start):
        return minimise_in_loop(lambda x, _: (*valley(x, jnp), None), start, Control(max_iterations=steps))

    found = quick_jit(search)(start)
    return found.theta, found.value, found.iterations, found.status


def in_lanes(start, steps):
    """Two lanes, of which the other starts elsewhere."""
    both = jnp.stack([start, 0.5 * start], axis=-1)
    lanes = begin(both, jnp.zeros((len(start), *both.shape)), None)
    control = Control(max_iterations=steps)
    go = quick_jit(lambda s: advance(lambda x, kept: Value(*valley(x, jnp), kept), s, control))
    while lanes.status[0] == RUNNING:
        lanes = go(lanes)
    return lanes.theta[:, 0], lanes.value[0], lanes.iteration[0] - 1, lanes.status[0]


@pytest.mark.parametrize("start", [[-1.2, 1.0], [-1.2, 1.0, 0.5]], ids=str)
def test_three_drivers_walk_the_same_path(start, x64):
    start = np.array(start)
    for steps in (6, 200):
        ways = [drive(start, steps) for drive in (on_host, in_loop, in_lanes)]
        for theta, value, iterations, status in ways[1:]:
            assert (int(iterations), int(status)) == (int(ways[0][2]), int(ways[0][3])), steps
            np.testing.assert_allclose(theta, ways[0][0], rtol=1e-8)
            np.testing.assert_allclose(value, ways[0][1], rtol=1e-6, atol=1e-18)
    assert status == Status.CONVERGED
    np.testing.assert_allclose(theta, 1.0, atol=1e-9)
