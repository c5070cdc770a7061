"""Every solver does what ``_base.Solver`` says: the same numbers as M written out, and the same fits."""

from functools import partial

import jax
import numpy as np
import pytest
from helpers import close, model, points, quick_jit
from own_solver import ConjugateGradients
from problems import PROBLEMS

import jaxmm as mm
from jaxmm.estimate import conditional_covariance, explained
from jaxmm.estimate_glmm import random_effects, value_and_derivatives
from jaxmm.objective.lmm import scaled_deviance
from jaxmm.objective.mode import zero_effects
from jaxmm.objective.parameters import scaled_factors
from jaxmm.plan import BLOCK
from jaxmm.solver import BlockElimination, diagonals, level_counts, level_systems
from jaxmm.solver.dense import Dense

pytestmark = pytest.mark.usefixtures("x64")


SOLVERS = {"dense": Dense, "own": ConjugateGradients}


def by(m, name: str):
    """The model with another solver."""
    return m.with_solver(SOLVERS[name](tuple(g.levels for g in m.accumulator.groupings)))


@quick_jit
def derivatives(theta, arrays):
    first = jax.value_and_grad(scaled_deviance)
    value, gradient = first(theta, arrays)
    return value, gradient, jax.jacfwd(lambda t: first(t, arrays)[1])(theta)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_linear_model(name):
    """Deviance with its derivatives, modes and covariances of the effects, and what starts read."""
    m, other = model(name), by(model(name), "dense")
    assert isinstance(m.structure.solver, BlockElimination) and other.structure.solver.name == "dense"
    theta = points(m)[0]
    for a, b in zip(derivatives(theta, m.arrays), derivatives(theta, other.arrays), strict=True):
        close(a, b, 1e-9)
    grams = m.arrays, other.arrays
    for mine, theirs in zip(*(explained(theta, g) for g in grams), strict=True):
        close(mine, theirs, 1e-9)
    expected = written_out(scaled_factors(theta, grams[1]), other)
    for g in grams:
        for N, textbook, T in zip(conditional_covariance(theta, g), expected, g.T, strict=True):
            close(N, T @ textbook @ T.T, 1e-9)
    close(grams[0].total, grams[1].total, 1e-10)
    assert level_counts(grams[0]) == level_counts(grams[1])
    both = [[*diagonals(g, np), *level_systems(g)] for g in grams]
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        close(a, b, 1e-10)


def written_out(lams, m) -> list[np.ndarray]:
    """The blocks (J, q, q) of N = ΛM^-1Λ' for each level of each factor, from the dense solver's couplings."""
    L, M, _ = (np.asarray(x) for x in m.structure.solver.parts(lams, m.arrays))
    N, out, at = L @ np.linalg.solve(M, L.T), [], 0
    for J, lam in zip(m.structure.solver.counts, lams, strict=True):
        inside = at + np.arange(J * len(lam)).reshape(J, -1)
        out.append(N[inside[:, :, None], inside[:, None, :]])
        at += inside.size
    return out


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_plan_is_the_solvers(solver):
    """What is printed of a model, and whether it fits into memory, is asked of the solver that it has."""
    m = model("crossed, q = 1 and 1, dense border")
    other = by(m, solver)
    assert m.plan.parts[0].how == BLOCK and other.plan.parts[0].how != BLOCK
    assert other.solver == other.plan.name != m.solver
    assert [part.size for part in other.plan.parts] == [part.size for part in m.plan.parts]
    assert "all at once   subject + item: " in str(other) and f"arrays {other.plan.memory}" in str(other)


@pytest.mark.parametrize("solver", SOLVERS)
def test_whole_fits(solver):
    """A model is fitted by whichever solver it has; batches too, lane by lane."""
    m = model("crossed, q = 1 and 1, dense border")
    other = by(m, solver)
    fits = [m.fit(), other.fit()]
    close(fits[1].deviance, fits[0].deviance, 1e-10)
    close(fits[1].bse, fits[0].bse, 1e-6)
    close(np.concatenate(fits[1].modes), np.concatenate(fits[0].modes), 1e-6)
    Y = np.stack([m.design.y, m.design.y[::-1]])
    a, b = (mm.fit_many(x, Y, progress=False) for x in (m, other))
    close(b.loglik, a.loglik, 1e-9)


@partial(quick_jit, static_argnums=(2,))
def laplace(psi, rows, n_agq):
    value, gradient, hessian, mode = value_and_derivatives(psi, rows, zero_effects(rows), n_agq, False)
    return value, gradient, hessian, mode.u


GENERALISED = [
    ("crossed, q = 1 and 1, dense border", 1, "dense"),
    ("chain and two crossed, cells", 1, "dense"),
    ("nested, 2 levels", 1, "dense"),
    ("one factor, q = 1", 5, "dense"),
    ("one factor, q = 2", 1, "own"),
]


@pytest.mark.parametrize("name, n_agq, solver", GENERALISED)
def test_a_generalised_model(name, n_agq, solver):
    """Laplace's and quadrature's criterion with its derivatives, the modes, and the covariances of the effects."""
    p = PROBLEMS[name]
    counts = np.random.default_rng(0).poisson(2.0, len(p.y)).astype(float)
    m = mm.Model.from_arrays(counts, p.X, p.terms, "poisson", n_agq=n_agq)
    other = by(m, solver)
    psi = np.full(m.arrays.layout.size, 0.3)
    mine, theirs = (laplace(psi, x.arrays, n_agq) for x in (m, other))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        close(a, b, 1e-8)
    effects = [random_effects(psi, x.arrays, zero_effects(x.arrays)) for x in (m, other)]
    for a, b in zip(*map(jax.tree.leaves, effects), strict=True):
        close(a, b, 1e-8)
