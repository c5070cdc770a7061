"""Recovery and coverage by simulation: the truth comes back from data made by it, for every family of the table.

The design is one on which Laplace's method and Wald's intervals are good: a hundred groups, and in each enough
information about its intercept.  What is then left is the error of the simulation and the bias of maximum likelihood,
whose leading terms are known.  With J groups and s the standard deviation of an estimate, it is for

    beta, log phi     of the order of s²
    sd of intercepts  -s sqrt(2 / J) - s² / (2 sd)

For the latter let V = sd² + the error variance of a group's mean.  J groups of mean square V give sd² the variance
2 V² / J, hence V = sd s sqrt(2 J); by the two coefficients that only groups inform (intercept and ``between``) ML makes
sd² too small by 2 V / J, which is the first term; the second is the curvature of the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxmm as mm
from jaxmm.families import FAMILIES, Family

GROUPS = 100
SETS = 2000  # of data, for each family
LANES = 250  # fitted at a time
SD = 3  # its place among the parameters
LAPLACE = 0.002  # at most, the error of Laplace's sd: against 9 nodes on the same data it is 0.0018 at worst


@dataclass(frozen=True)
class Truth:
    """``beta`` of the intercept, within and between; ``sd`` of the intercepts; ``phi`` where there is one.

    ``size``: rows of a group, fewer where a family takes longer; ``extras``: a number for each.
    """

    link: str
    beta: tuple[float, float, float]
    sd: float
    phi: float | None = None
    trials: int | None = None
    size: int = 10
    extras: tuple[float, ...] = ()


# with noisier rows, or fewer of them in a group, it would be Laplace's error that is measured
TRUTHS = {
    "binomial": Truth("logit", (-0.5, 0.4, 0.3), 0.5, trials=10),
    "poisson": Truth("log", (1.0, 0.2, 0.3), 0.5),
    "gamma": Truth("log", (0.5, 0.3, -0.2), 0.5, phi=0.5),
    "inverse_gaussian": Truth("log", (0.2, 0.3, -0.2), 0.5, phi=0.1),
    "nbinom1": Truth("log", (1.5, 0.2, 0.3), 0.5, phi=0.8),
    "nbinom2": Truth("log", (1.5, 0.2, 0.3), 0.5, phi=3.0),
    "beta": Truth("logit", (0.3, 0.4, -0.3), 0.5, phi=15.0, size=6),
    "betabinomial": Truth("logit", (-0.3, 0.4, 0.3), 0.5, phi=30.0, trials=20, size=6),
    "gaussian": Truth("identity", (2.0, 0.5, -0.4), 0.5, phi=0.6),
    "tweedie": Truth("log", (1.0, 0.3, -0.2), 0.5, phi=0.8, extras=(1.4,)),
    "student_t": Truth("identity", (2.0, 0.5, -0.4), 0.5, phi=0.4, extras=(6.0,)),
    "truncated_poisson": Truth("log", (1.0, 0.2, 0.3), 0.5),
    "truncated_nbinom1": Truth("log", (1.5, 0.2, 0.3), 0.5, phi=0.8),
    "truncated_nbinom2": Truth("log", (1.5, 0.2, 0.3), 0.5, phi=3.0),
}


def test_every_family_has_a_truth():
    assert TRUTHS.keys() == FAMILIES.keys()


# ---------------------------------------------------------------- data from the truth, and what is made of it
class Plan(NamedTuple):
    """X (n, 3): intercept, within, between; the groups of the rows."""

    X: np.ndarray
    codes: np.ndarray


@cache
def plan(groups: int, size: int) -> Plan:
    rng = np.random.default_rng(20)
    codes = np.repeat(np.arange(groups), size)
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
        return family.sample(for_response, family.link.inverse(X @ beta + b[p.codes]), phi, trials, *truth.extras)

    return draw(jnp.arange(sets))


class Fits(NamedTuple):
    """What was estimated from each data set, against ``truth`` (parameters,): beta, sd, log phi, extras as searched."""

    names: list[str]
    truth: np.ndarray
    estimates: np.ndarray  # (sets, parameters)
    errors: np.ndarray  # (sets, parameters), standard errors; nan for the sd, whose intervals are not Wald's
    status: np.ndarray


def simulate(name: str, sets: int, groups: int = GROUPS, lanes: int = LANES) -> Fits:
    truth = TRUTHS[name]
    p = plan(groups, truth.size)
    family = FAMILIES[name](truth.link)
    with jax.enable_x64(True):
        key = jax.random.fold_in(jax.random.key(11), list(TRUTHS).index(name))
        y = responses(family, truth, p, key, sets)
        term = mm.Term(np.ones(len(p.X)), p.codes)
        model = mm.Model.from_arrays(y[0], p.X, [term], family, trials=truth.trials)
        arrays = model.arrays
        fit = jax.jit(jax.vmap(lambda y: read_off(mm.estimate(arrays.with_response(y)))))
        parts = [jax.tree.map(np.asarray, fit(y[k : k + lanes])) for k in range(0, sets, lanes)]
    estimates, errors, status = (np.concatenate(x) for x in zip(*parts, strict=True))
    names, values = ["intercept", "within", "between", "sd"], [*truth.beta, truth.sd]
    if truth.phi is not None:
        names, values = [*names, "log phi"], [*values, np.log(truth.phi)]
    for e, value in zip(family.extras, truth.extras, strict=True):
        names, values = [*names, *e.labels], [*values, *e.map.raw(np.array([value]))]
    return Fits(names, np.array(values), estimates, errors, status)


def read_off(e: mm.GlmmEstimates) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Estimates, standard errors (of the sd none), status; the sign of the factor of one effect says nothing."""
    of_phi = jnp.diagonal(e.covariance)[len(e.psi) - len(e.log_phi) :]
    variances = jnp.concatenate([jnp.diagonal(e.vcov), jnp.full(1, jnp.nan), of_phi])
    return jnp.concatenate([e.beta, jnp.abs(e.theta), e.log_phi]), jnp.sqrt(variances), e.status


# ---------------------------------------------------------------- what is asked of them
def check(fits: Fits, groups: int = GROUPS) -> dict[str, float]:
    """All tolerances are three or four standard errors of the simulation, and what theory leaves beside them. Gives the
    share of intervals that hold the truth."""
    converged = fits.status == mm.Status.CONVERGED
    sets = np.sum(converged)
    assert sets >= 0.998 * len(converged), np.bincount(fits.status)
    estimates, errors, truth = fits.estimates[converged], fits.errors[converged], fits.truth
    spread = np.std(estimates, axis=0, ddof=1)
    bias, noise = np.mean(estimates, axis=0) - truth, spread / np.sqrt(sets)

    # bias: of the order of the variance, but of the sd, whose first order is known
    known, left = np.zeros(len(truth)), spread**2
    s = spread[SD]
    known[SD] = -s * np.sqrt(2 / groups) - s**2 / (2 * truth[SD])
    left[SD] = LAPLACE
    off = {n: (b, k) for n, b, k, t in zip(fits.names, bias, known, 3 * noise + left, strict=True) if abs(b - k) > t}
    assert not off, f"bias, and that expected: {off}"

    # standard errors of beta and log phi; ML ones of what the groups inform are 1 / J too small
    asked = np.arange(len(truth)) != SD
    ratio = np.mean(errors, axis=0) / spread
    assert np.all(np.abs(ratio - 1)[asked] < 3 / np.sqrt(2 * sets) + 1 / groups), dict(
        zip(fits.names, ratio, strict=True)
    )

    # coverage by 95 % intervals: between 93 and 97 % for 2000 data sets
    covered = np.mean(np.abs(estimates - truth) < stats.norm.ppf(0.975) * errors, axis=0)
    share = {name: float(c) for name, c, known in zip(fits.names, covered, asked, strict=True) if known}
    assert np.all(np.abs(covered - 0.95)[asked] < 4 * np.sqrt(0.95 * 0.05 / sets)), share
    return share


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_truth_comes_back_and_intervals_cover(name, claim):
    for parameter, share in check(simulate(name, SETS)).items():
        claim(f"coverage of Wald intervals, 100 groups, {name}, {parameter}", share, 0.95, n=SETS)


def test_the_truth_comes_back_in_small():
    """The same machinery on a hundred data sets."""
    check(simulate("poisson", 100, lanes=50))
