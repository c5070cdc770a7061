"""What is read off at a theta, against matrices written out: beta, its covariance, the modes and their covariances."""

import jax
import numpy as np
import pytest
from helpers import close, covariance_of, model, points, quick_jit
from problems import PROBLEMS

import jaxmm as mm
from jaxmm.estimate import change_theta, conditional_covariance, explained, moment_start
from jaxmm.objective.lmm import profile
from jaxmm.objective.parameters import scaled_factors


@quick_jit
def read_off(theta, arrays):
    """In elimination order, relative to sigma² = pwrss / df."""
    at = profile(scaled_factors(theta, arrays), arrays)
    NB, N = explained.function(theta, arrays), conditional_covariance.function(theta, arrays)
    weights = jax.numpy.append(-at.beta, 1.0)
    return arrays.T_X @ (at.beta + arrays.beta0), at.pwrss, [x @ weights for x in NB], N


def written_out(m: mm.Model, theta: np.ndarray) -> tuple:
    """The same from V (n, n), relative to sigma²; theta as to the data's columns."""
    d = m.design
    y = d.y if d.offset is None else d.y - d.offset
    V = covariance_of(m, theta)
    beta = np.linalg.solve(d.X.T @ np.linalg.solve(V, d.X), d.X.T @ np.linalg.solve(V, y))
    residual = y - d.X @ beta
    modes, N = [], []
    for f in m.elimination.order:
        factor, Z = d.factors[f], np.hstack([t.Z for t in d.terms if t.factor == f])
        lam = np.zeros((Z.shape[1],) * 2)
        for (t, layout), at in zip(m.theta_terms(), m.structure.slices(), strict=True):
            if d.terms[t].factor == f:
                inside = slice(layout.at, layout.at + layout.covariance.q)
                lam[inside, inside] = layout.covariance.factor(theta[at])
        D = lam @ lam.T
        Zj = (factor.codes == np.arange(len(factor.levels))[:, None])[:, :, None] * Z  # (J, n, q)
        DZ = D @ np.swapaxes(Zj, 1, 2)
        modes.append(DZ @ np.linalg.solve(V, residual))
        N.append(D - DZ @ np.linalg.solve(V, np.swapaxes(DZ, 1, 2)))
    return beta, residual @ np.linalg.solve(V, residual), modes, N


@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if len(p.terms) > 1])
def test_estimates_are_those_of_matrices_written_out(name):
    m = model(name)
    scaled = points(m)[0]
    theta = change_theta(scaled, [np.asarray(t) for t in m.arrays.T], m.arrays)
    with jax.enable_x64(True):
        beta, pwrss, modes, N = read_off(scaled, m.arrays)
    expected = written_out(m, theta)
    close(beta, expected[0], 1e-9)
    close(pwrss, expected[1], 1e-10)
    for ours, theirs in zip((*modes, *N), (*expected[2], *expected[3]), strict=True):
        close(ours, theirs, 1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_start_is_inside_and_theta_goes_to_other_columns_and_back(name):
    m = model(name)
    start, T = moment_start(m.arrays), [np.asarray(t) for t in m.arrays.T]
    assert start.shape == (m.structure.num_theta,)
    for term, at in zip(m.structure.terms, m.structure.slices(), strict=True):
        assert np.all(np.diag(term.covariance.factor(start[at])) > 0)
    back = [np.linalg.inv(t) for t in T]
    close(change_theta(change_theta(start, T, m.arrays), back, m.arrays), start)
