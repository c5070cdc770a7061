"""What bootstrap intervals are worth: Monte-Carlo results beside closed forms of a balanced design."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, norm, t

import jaxmm as mm
from jaxmm._random import normals_of, replicate_words, words
from jaxmm.batch.engine import fit_many
from jaxmm.sources.draw import Simulated
from jaxmm.sources.resample import Residual
from jaxmm.sources.responses import Responses, Varying
from jaxmm.studies import intervals
from jaxmm.studies.bootstrap import bootstrap

pytestmark = pytest.mark.slow

J, M = 20, 6  # groups, rows in each
TRUTH = {"fixef": [1.0, 0.5], "sd": 1.0, "sigma": 1.0}


@pytest.fixture(scope="module")
def model():
    """x has the same values in every group, so that its coefficient has nothing to do with the groups."""
    group, x = np.repeat(np.arange(J), M), np.tile(np.linspace(-1, 1, M), J)
    y = 1 + 0.5 * x + np.random.default_rng(1).normal(size=J)[group] + np.random.default_rng(2).normal(size=J * M)
    return mm.Model.from_formula("y ~ x + (1 | group)", pd.DataFrame({"y": y, "x": x, "group": group}))


@pytest.mark.parametrize("source", [Simulated, Residual], ids=["parametric", "residual"])
def test_group_means_have_their_standard_deviation(model, source):
    """√(τ² + σ²/m), of the fitted τ and σ; and so has the intercept, their mean."""
    fit, n = model.fit(), 20_000
    made = Simulated(model, fit, n, jax.random.key(3)) if source is Simulated else Residual(fit, n, jax.random.key(3))
    means = np.asarray(made.block(0, n).y).reshape(n, J, M).mean(axis=2) - fit.fixef["(Intercept)"]
    expected = fit.varcorr().cov["group"].iloc[0, 0] + fit.scale / M
    square = means**2
    error = np.std(square.mean(axis=1)) / np.sqrt(n)
    assert abs(square.mean() - expected) < 4 * error and error < 0.01 * expected
    kind = "parametric" if source is Simulated else "residual"
    boot = bootstrap(fit, n, key=jax.random.key(3), kind=kind, progress=False)
    np.testing.assert_allclose(boot.se["(Intercept)"], np.sqrt(expected / J), rtol=4 / np.sqrt(2 * n) + 0.005)
    assert abs(boot.bias["(Intercept)"]) < 4 * np.sqrt(expected / J / n)


class Bootstraps(Responses):
    """The parametric bootstraps of many fits, n of each, one after another: replicate k is of fit k // n."""

    endless = True

    def __init__(self, model, batch, n, key):
        d = model.design
        self.n, self.each, self.codes, self._key = len(batch) * n, n, d.factors[0].codes, words(key)
        self.eta, self.tau, self.sigma = batch.fixef @ d.X.T, batch.varcorr_sd, batch.sigma[:, None]

    def block(self, first, size):
        with jax.enable_x64(True):
            for_effects, for_rows = replicate_words(self._key, first, size)
            of = np.minimum((first + np.arange(size)) // self.each, len(self.eta) - 1)
            u, e = normals_of(for_effects, J), normals_of(for_rows, J * M)
            return Varying(jnp.asarray(self.eta[of]) + self.tau[of] * u[:, self.codes] + self.sigma[of] * e)

    def identity(self):
        return {"responses": "bootstraps", "n": self.n}


def test_percentile_coverage(model, claim, sets=1000, n=399):
    """Of ``sets`` data sets with a known truth, how many intervals hold it, beside what theory says.

    In this design the estimate of a coefficient is normal, and given the fit so are its replicates, with the standard
    error of the fit: (estimate - truth)/se has a t distribution with J - 1 (intercept) or J M - J - 1 (x) degrees of
    freedom, and the interval ends at ± z.  Of σ, with s² ~ χ²_f/f, the interval is s times the quantiles of √(χ²_f/f).
    """
    batch = fit_many(model, Simulated(model, TRUTH, sets, jax.random.key(4)), progress=False)
    assert np.all(batch.converged)
    boots = fit_many(model, Bootstraps(model, batch, n, jax.random.key(5)), progress=False)
    assert np.mean(boots.converged) > 0.9999
    f, z = J * M - J - 1, norm.ppf(0.975)
    low, high = chi2.ppf([0.025, 0.975], f) / f
    expected = [1 - 2 * t.sf(z, J - 1), 1 - 2 * t.sf(z, f), chi2.cdf(f / low, f) - chi2.cdf(f / high, f)]
    values = np.column_stack([boots.fixef, boots.sigma]).reshape(sets, n, 3)
    ends = np.stack([intervals.percentile(x, 0.95) for x in values])
    truth = np.array([*TRUTH["fixef"], TRUTH["sigma"]])
    covered = np.mean((ends[:, :, 0] < truth) & (truth < ends[:, :, 1]), axis=0)
    for what, found, p in zip(("intercept", "x", "sigma"), covered, expected, strict=True):
        claim(f"coverage of percentile intervals of the bootstrap, {what}, beside its closed form", found, p, n=sets)
        # the quantiles of n replicates are themselves uncertain, by about 0.002 in the coverage
        assert abs(found - p) < 3.5 * np.sqrt(p * (1 - p) / sets) + 0.004, (covered, expected)


def test_case_bootstrap_finds_unequal_errors():
    """Groups of unlike error variances, which the model does not know of: the standard deviation of σ̂ over data sets is
    seen by the case bootstrap, and missed by the parametric one."""
    groups, rows, sets = 60, 8, 2000
    group = np.repeat(np.arange(groups), rows)
    rng = np.random.default_rng(6)
    spread = np.exp(rng.normal(size=(sets, groups)) * 0.4)[:, group]
    Y = rng.normal(size=(sets, groups))[:, group] + spread * rng.normal(size=(sets, groups * rows))
    model = mm.Model.from_formula("y ~ 1 + (1 | group)", {"y": Y[0], "group": group})
    truth = fit_many(model, Y, progress=False).sigma.std(ddof=1)
    found = {"case": [], "parametric": []}
    for y in Y[:40]:
        fit = model.with_response(y).fit()
        for kind, values in found.items():
            values.append(bootstrap(fit, 200, key=jax.random.key(7), kind=kind, progress=False).se["sigma"])
    seen = {kind: np.sqrt(np.mean(np.square(values))) for kind, values in found.items()}
    # a little below the truth: 60 groups have fewer extreme ones than a population
    assert 0.8 * truth < seen["case"] < 1.1 * truth
    assert seen["parametric"] < 0.6 * truth
