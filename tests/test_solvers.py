"""Every solver does what ``_base.Solver`` says: the same numbers as M written out, and the same fits."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, model, points, quick_jit
from problems import PROBLEMS

import jaxmm as mm
from jaxmm.estimate import conditional_covariance, explained
from jaxmm.estimate_glmm import random_effects, value_and_derivatives
from jaxmm.objective.lmm import scaled_deviance
from jaxmm.objective.mode import zero_effects
from jaxmm.solver import BlockElimination
from jaxmm.solver.dense import Dense

pytestmark = pytest.mark.usefixtures("x64")


@dataclass(frozen=True)
class Cholesky(Dense):
    """A solver of somebody's own, in one class: M = LL' where the dense one leaves it to ``solve``."""

    name = "by Cholesky"

    def reduce(self, lams, gram):
        L, M, half = self._parts(lams, gram)
        root, B = jnp.linalg.cholesky(M), L.T @ half[:, len(L) :]
        half_B = jax.scipy.linalg.solve_triangular(root, B, lower=True)
        logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(root)))
        return logdet, gram.couplings[len(L) :, len(L) :] - half_B.T @ half_B


SOLVERS = {"dense": Dense, "own": Cholesky}


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
    for function in (explained, conditional_covariance):
        for a, b in zip(function(theta, m.arrays), function(theta, other.arrays), strict=True):
            close(a, b, 1e-9)
    solvers, grams = (m.structure.solver, other.structure.solver), (m.arrays, other.arrays)
    assert solvers[0].level_counts(grams[0]) == solvers[1].level_counts(grams[1])
    close(m.arrays.total, other.arrays.total, 1e-10)
    both = list(zip(solvers, grams, strict=True))
    for pairs in ([s.diagonals(g, np) for s, g in both], [s.level_systems(g) for s, g in both]):
        for mine, theirs in zip(*pairs, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                close(a, b, 1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_whole_fits(solver):
    """A model is fitted by whichever solver it has; batches too, lane by lane."""
    m = model("crossed, q = 1 and 1, dense border")
    other = by(m, solver)
    fits = [m.fit(), other.fit()]
    close(fits[1].deviance, fits[0].deviance, 1e-10)
    close(fits[1].bse, fits[0].bse, 1e-6)
    for a, b in zip(fits[0].modes, fits[1].modes, strict=True):
        close(b, a, 1e-6)
    Y = np.stack([m.design.y, m.design.y[::-1]])
    a, b = (mm.fit_many(x, Y, progress=False) for x in (m, other))
    close(b.loglik, a.loglik, 1e-9)


@partial(quick_jit, static_argnums=(2,))
def laplace(psi, rows, n_agq):
    value, gradient, hessian, mode = value_and_derivatives(psi, rows, zero_effects(rows), n_agq, False)
    return value, gradient, hessian, mode.u


@pytest.mark.parametrize(
    "name, n_agq",
    [("crossed, q = 1 and 1, dense border", 1), ("one factor, q = 2", 1), ("one factor, q = 1", 5)],
)
def test_a_generalised_model(name, n_agq):
    """Laplace's and quadrature's criterion with its derivatives, the modes, and the covariances of the effects."""
    p = PROBLEMS[name]
    counts = np.random.default_rng(0).poisson(2.0, len(p.y)).astype(float)
    m = mm.Model.from_arrays(counts, p.X, p.terms, "poisson", n_agq=n_agq)
    other = by(m, "dense")
    psi = np.full(m.arrays.layout.size, 0.3)
    mine, theirs = (laplace(psi, x.arrays, n_agq) for x in (m, other))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        close(a, b, 1e-8)
    effects = [random_effects(psi, x.arrays, zero_effects(x.arrays)) for x in (m, other)]
    for a, b in zip(*map(jax.tree.leaves, effects), strict=True):
        close(a, b, 1e-8)
