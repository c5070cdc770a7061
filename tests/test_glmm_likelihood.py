"""Likelihoods of generalised fits: quadrature, comparisons, and the search for their maximum."""

import re

import numpy as np
from glmm_fits import FITS, LME4, cbpp, data, fitted, glmm, same
from helpers import close, says
from scipy import special, stats

import jaxmm as mm


# ---------------------------------------------------------------- quadrature
def exact_loglik(fit: mm.Fit) -> float:
    """The integral over each herd's effect, on a fine grid."""
    d, sd = fit.model.design, fit.theta[0]
    t = np.linspace(-9, 9, 3601)
    eta = (d.X @ fit.fixef.to_numpy())[:, None] + sd * t
    rows = stats.binom.logpmf(d.y[:, None], d.trials[:, None], special.expit(eta))
    herds = np.array([rows[d.factors[0].codes == j].sum(axis=0) for j in range(15)])
    return float(np.sum(np.log(np.exp(herds) @ stats.norm.pdf(t) * (t[1] - t[0]))))


def test_accuracy_of_laplace():
    """The number of the text is the log-likelihood at the same estimates, and how much it is higher."""
    fit = fitted("cbpp")
    exact = exact_loglik(fit)
    found = re.search(r"with 15 quadrature nodes .* is (\S+), (\S+) (higher|lower)", fit.accuracy())
    assert found[1] == f"{exact:.2f}" and found[2] == f"{abs(exact - fit.loglik):.2g}" and found[3] == "higher"
    assert fit.accuracy() in str(fit) and fitted("crossed").accuracy() is None


def test_nodes():
    fit, laplace = glmm("cbpp", n_agq=5), fitted("cbpp")
    assert fit.converged and fit.n_agq == 5 and fit.accuracy() is None
    assert "(adaptive Gauss-Hermite quadrature, 5 nodes)" in str(fit) and "Laplace" not in str(fit)
    np.testing.assert_allclose(fit.loglik, exact_loglik(fit), atol=1e-3)
    assert abs(laplace.loglik - exact_loglik(laplace)) > 0.04
    np.testing.assert_allclose(fit.fixef, LME4.fixef_9, atol=1e-3)
    assert fit.ranef()["herd"].shape == (15, 1) and fit.shrinkage().factor["herd"].iloc[0] < 1


def test_as_many_nodes_as_are_needed():
    fit = glmm("cbpp", n_agq="auto")
    assert fit.converged and fit.n_agq == 9 and "9 nodes" in str(fit)
    close(fit.fixef, LME4.fixef_9, 1e-5)
    close(fit.theta, [LME4.theta_9], 1e-5)
    np.testing.assert_allclose(fit.loglik, exact_loglik(fit), atol=1e-5)
    assert "nodes as needed" in str(fit.model) and fit.remarks == []


def test_laplace_where_nodes_cannot_be_had():
    fit = glmm("crossed", n_agq="auto")
    assert fit.converged and fit.n_agq == 1 and fit.deviance == fitted("crossed").deviance
    remark = "n_agq='auto': Laplace's method, since quadrature needs one grouping factor with at most 3 effects"
    assert fit.remarks == [remark] and remark in str(fit) and "(Laplace approximation)" in str(fit)


# ---------------------------------------------------------------- comparisons
def test_likelihood_ratio():
    fit = fitted("cbpp")
    without = mm.glmm("cbind(incidence, size - incidence) ~ 1 + (1 | herd)", cbpp(), "binomial")
    comparison = mm.anova(fit, without)
    table = comparison.to_frame()
    assert list(table.index) == ["fit1", "fit0"] and list(table["npar"]) == [2, 5] and comparison.notes == ()
    last = table.loc["fit0"]
    close([last["chisq"], last["df"]], [LME4.chisq, 3], 1e-6)
    np.testing.assert_allclose(last["p"], LME4.p_chisq, rtol=1e-4)
    assert FITS["cbpp"][0] in repr(comparison) and "binomial" not in repr(comparison)


def test_families_of_one_response_are_compared():
    fit = fitted("nbinom2")
    poisson = mm.glmm(fit.formula, data(), "poisson")
    comparison = mm.anova(poisson, fit)
    last = comparison.to_frame().iloc[-1]
    np.testing.assert_allclose(last["chisq"], poisson.deviance - fit.deviance, rtol=1e-12)
    assert last["df"] == 1 and last["p"] < 1e-4
    assert "(1 | g), poisson (log)\n" in repr(comparison) and "(1 | g), nbinom2 (log)\n" in repr(comparison)


def test_likelihoods_that_cannot_be_compared():
    counts = data().assign(yes=data()["yes"].astype(int))
    with says(ValueError, "different responses: binomial and poisson", "successes among trials"):
        mm.anova(fitted("slopes"), mm.glmm("yes ~ x + (1 | g)", counts, "poisson"))
    with says(ValueError, "gaussian and poisson", "probabilities", "densities"):
        mm.anova(mm.lmm("count ~ x + (1 | g)", data()), fitted("poisson"))
    with says(ValueError, "different numbers of trials"):
        mm.anova(fitted("cbpp"), glmm("cbpp", cbpp().assign(size=cbpp()["size"] + 1)))
    with says(ValueError, "different responses", "'count'", "'much'"):
        mm.anova(fitted("poisson"), fitted("nbinom2"))
    notes = mm.anova(fitted("cbpp"), glmm("cbpp", n_agq=5)).notes
    assert len(notes) == 1 and notes[0].startswith("likelihoods by 1 and 5 quadrature nodes")


# ---------------------------------------------------------------- the search
def test_start_and_control():
    fit = fitted("slopes")
    again = glmm("slopes", start=fit.theta)
    same(again, fit)
    assert glmm("slopes", start=2 * fit.theta).converged
    rough = glmm("slopes", control={"tolerance": 1e-3})
    assert rough.converged and 0 <= rough.deviance - fit.deviance + 1e-9 < 1e-2
    assert rough.diagnostics.iterations <= fit.diagnostics.iterations
    short = glmm("slopes", control=mm.Control(max_iterations=1))
    assert short.diagnostics.status is mm.Status.MAX_ITERATIONS and not short.converged
    assert "not converged: stopped at the iteration limit" in str(short) and short.accuracy() is None
