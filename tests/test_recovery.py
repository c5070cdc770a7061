"""Recovery and coverage by simulation: the truth comes back from data made by it, for every family of the table.

On a design where Laplace's method and Wald's intervals are good (many groups, an informative response) what is left
is the sampling error of the simulation and the bias of maximum likelihood, which is known to first order:

    beta, log phi   of the order of the estimate's own variance
    sd of effects   -s sqrt(2 / J) - s² / (2 sd),  s the standard deviation of its estimate

The latter: with J groups and k = 2 coefficients that only groups inform (the intercept and ``between``) the ML variance
is too small by k / J of the variance of the groups' means V = sqrt(J / 2) (2 sd s), and its root is concave.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmm as mm
from jaxmm.families import FAMILIES, Family

GROUPS, SIZE, LANES = 100, 10, 250
SETS = 2000
BETWEEN = 2  # coefficients that the groups alone inform


@dataclass(frozen=True)
class Truth:
    """``beta`` of intercept, within and between; ``sd`` of the intercepts; ``phi`` where there is one."""

    link: str
    beta: tuple[float, float, float]
    sd: float
    phi: float | None = None
    trials: int | None = None


# informative enough that a group's rows tell its intercept well: else Laplace's bias would be what is measured
TRUTHS = {
    "binomial": Truth("logit", (-0.5, 0.4, 0.3), 0.5, trials=10),
    "poisson": Truth("log", (1.0, 0.2, 0.3), 0.5),
    "gamma": Truth("log", (0.5, 0.3, -0.2), 0.5, phi=0.5),
    "inverse_gaussian": Truth("log", (0.2, 0.3, -0.2), 0.5, phi=0.4),
    "nbinom1": Truth("log", (1.5, 0.2, 0.3), 0.5, phi=0.8),
    "nbinom2": Truth("log", (1.5, 0.2, 0.3), 0.5, phi=3.0),
    "beta": Truth("logit", (0.3, 0.4, -0.3), 0.5, phi=6.0),
    "betabinomial": Truth("logit", (-0.3, 0.4, 0.3), 0.5, phi=8.0, trials=12),
    "gaussian": Truth("identity", (2.0, 0.5, -0.4), 0.5, phi=0.6),
}


def test_every_family_has_a_truth():
    assert TRUTHS.keys() == FAMILIES.keys()


# ---------------------------------------------------------------- data from the truth, and what is made of it
class Plan(NamedTuple):
    """X (n, 3): intercept, within, between; the groups of the rows."""

    X: np.ndarray
    codes: np.ndarray


@cache
def plan(groups: int) -> Plan:
    rng = np.random.default_rng(20)
    codes = np.repeat(np.arange(groups), SIZE)
    between, within = rng.normal(size=groups)[codes], rng.normal(size=len(codes))
    return Plan(np.column_stack([np.ones(len(codes)), within, between]), codes)


def responses(family: Family, truth: Truth, p: Plan, key: jax.Array, sets: int) -> jax.Array:
    """(sets, n): the k-th depends on the key and on k alone."""
    X, beta, phi = jnp.asarray(p.X), jnp.asarray(truth.beta), jnp.asarray(truth.phi or 1.0)
    trials = jnp.asarray(float(truth.trials or 1))

    @jax.jit
    @jax.vmap
    def draw(k):
        for_effects, for_response = jax.random.split(jax.random.fold_in(key, k))
        b = truth.sd * jax.random.normal(for_effects, (p.codes[-1] + 1,), X.dtype)
        return family.sample(for_response, family.link.inverse(X @ beta + b[p.codes]), phi, trials)

    return draw(jnp.arange(sets))


class Fits(NamedTuple):
    """What was estimated from each data set, against ``truth`` (parameters,): beta, sd, log phi."""

    names: list[str]
    truth: np.ndarray
    estimates: np.ndarray  # (sets, parameters)
    errors: np.ndarray  # (sets, parameters), standard errors
    status: np.ndarray


def simulate(name: str, sets: int, groups: int = GROUPS, lanes: int = LANES) -> Fits:
    truth, p = TRUTHS[name], plan(groups)
    family = FAMILIES[name](truth.link)
    with jax.enable_x64(True):
        y = responses(family, truth, p, jax.random.key(11), sets)
        term = mm.Term(np.ones(len(p.X)), p.codes)
        model = mm.Model.from_arrays(y[0], p.X, [term], family, trials=truth.trials)
        fit = jax.jit(jax.vmap(lambda y: read_off(mm.estimate(model.arrays.with_response(y)))))
        parts = [jax.tree.map(np.asarray, fit(y[k : k + lanes])) for k in range(0, sets, lanes)]
    estimates, errors, status = (np.concatenate(x) for x in zip(*parts, strict=True))
    names, values = ["intercept", "within", "between", "sd"], [*truth.beta, truth.sd]
    if truth.phi is not None:
        names, values = [*names, "log phi"], [*values, np.log(truth.phi)]
    return Fits(names, np.array(values), estimates, errors, status)


def read_off(e: mm.GlmmEstimates) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Estimates, standard errors, status; the sign of the factor of one effect says nothing."""
    of_beta, p = jnp.diagonal(e.vcov), len(e.beta)
    variances = jnp.concatenate([of_beta, jnp.diagonal(e.covariance)[p:]])  # Z is a column of ones: nothing is scaled
    return jnp.concatenate([e.beta, jnp.abs(e.theta), e.log_phi]), jnp.sqrt(variances), e.status
