"""Influence: the fits without each row or level, lme4's numbers, hat matrices written out, and derivatives."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glmm_fits import fitted as glmm_fitted
from helpers import close, covariance_of, says

import jaxmm as mm

REFERENCE = json.loads((Path(__file__).parent / "reference" / "influence.json").read_text())


@pytest.fixture(scope="module")
def fit():
    """Of reference/influence.R."""
    data = mm.datasets.load("sleepstudy")
    return mm.lmm("Reaction ~ Days + (Days | Subject)", data[np.arange(1, len(data) + 1) % 7 != 0])


def correlations(found: mm.inference.influence.Influence) -> np.ndarray:
    return np.array([np.corrcoef(found.exact[c], found.derivative[c])[0, 1] for c in found.exact])


def test_levels_as_in_r(fit):
    found = fit.influence("Subject")
    assert list(found.index) == REFERENCE["subject"] and (found.status == "converged").all()
    close(-found.dfbeta, REFERENCE["dfbeta"], 1e-4)  # lme4 has the other sign
    close(-found.dfbetas, REFERENCE["dfbetas"], 1e-4)
    close(found.cooks_distance, REFERENCE["cooks_distance"], 1e-3)
    close(found.leverage, np.bincount(fit.model.design.factors[0].codes, REFERENCE["hat"]), 1e-4)
    frame = found.frame
    assert list(frame.columns) == ["cooks_distance", "leverage", "dfbetas_(Intercept)", "dfbetas_Days", "status"]
    assert "18 levels of Subject, by fits without each" in repr(found)


@pytest.mark.parametrize("by", ["Subject", "case"])
def test_derivatives_beside_the_fits_without_each(sleep_reml, by):
    found = sleep_reml.influence(by)
    assert correlations(found).min() > 0.999
    slopes = [np.polyfit(found.derivative[c], found.exact[c], 1)[0] for c in found.exact]
    np.testing.assert_allclose(slopes, 1, atol=0.05)
    if by == "case":
        data = mm.datasets.load("sleepstudy").drop(index=7)
        without = mm.lmm(sleep_reml.formula, data)
        change = without.fixef - sleep_reml.fixef
        np.testing.assert_allclose(found.exact.loc[7, ["(Intercept)", "Days"]], change, atol=1e-4)
        assert found.exact.loc[7, "sigma"] == pytest.approx(without.sigma - sleep_reml.sigma, abs=1e-4)


def test_the_infinitesimal_jackknife_is_a_derivative(fit):
    """Of the estimates with one level counting a little less, by fitting again with that level's share of copies."""
    from jaxmm.sources.responses import ArrayResponses, Varying

    class Copies(ArrayResponses):
        varies = frozenset({"y", "copies"})

        def block(self, first: int, size: int) -> Varying:
            copies = np.ones((size, 18))
            copies[np.arange(size), 3] += np.array([1e-3, -1e-3])[first : first + size]
            return super().block(first, size)._replace(copies=copies)

    y = fit.model.design.y
    two = mm.fit_many(fit.model, Copies(np.stack([y, y])), start=fit, progress=False, control={"tolerance": 1e-12})
    slopes = np.array([(x[0] - x[1]) / 2e-3 for x in two.estimates().values()])
    np.testing.assert_allclose(fit.influence("Subject", refit=False).infinitesimal.iloc[3], -slopes, rtol=2e-4)


@pytest.mark.parametrize("by", ["case", "sample"])
def test_crossed_factors(by):
    data = mm.datasets.load("penicillin")
    fit = mm.lmm("diameter ~ 1 + (1 | plate) + (1 | sample)", data[np.arange(1, len(data) + 1) % 5 != 0], reml=False)
    found = fit.influence(by, refit=by == "sample")
    if by == "case":
        close(found.leverage, hat_matrix(fit).diagonal(), 1e-8)
        other = mm.lmm(fit.formula, data[np.arange(1, len(data) + 1) % 5 != 0])
        close(other.influence("case", refit=False).leverage, REFERENCE["crossed"], 1e-4)
        row = found.index[9]
        without = mm.lmm(fit.formula, data[(np.arange(1, len(data) + 1) % 5 != 0) & (data.index != row)], reml=False)
        change = found.derivative.loc[row]
        assert change["(Intercept)"] == pytest.approx(without.fixef.iloc[0] - fit.fixef.iloc[0], abs=1e-4)
        assert change["sigma"] == pytest.approx(without.sigma - fit.sigma, rel=0.02)
    else:
        kept = data[np.arange(1, len(data) + 1) % 5 != 0]
        without = mm.lmm(fit.formula, kept[kept["sample"] != "C"], reml=False)
        assert found.exact.loc["C", "(Intercept)"] == pytest.approx(without.fixef.iloc[0] - fit.fixef.iloc[0], abs=1e-5)
        assert correlations(found)[0] > 0.9


def hat_matrix(fit: mm.Fit) -> np.ndarray:
    """Of y to the conditional fitted values, (n, n)."""
    d, V = fit.model.design, covariance_of(fit.model, fit.theta)
    w = np.ones(len(d.y)) if d.weights is None else d.weights
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ d.X @ np.linalg.inv(d.X.T @ Vi @ d.X) @ d.X.T @ Vi
    return np.eye(len(w)) - P / w[:, None]


def test_leverage(weighted):
    found = weighted.influence("case", refit=False)
    close(found.leverage, hat_matrix(weighted).diagonal(), 1e-8)
    d, Vi = weighted.model.design, np.linalg.inv(covariance_of(weighted.model, weighted.theta))
    marginal = np.diag(d.X @ np.linalg.inv(d.X.T @ Vi @ d.X) @ d.X.T @ Vi)
    close(found.marginal_leverage, marginal, 1e-8)
    assert found.marginal_leverage.sum() == pytest.approx(2)


def test_a_generalised_model():
    fit = glmm_fitted("cbpp")
    found = fit.influence("herd")
    assert (found.status == "converged").all() and correlations(found).min() > 0.995
    rows = fit.influence("case", refit=False)
    d, mean = fit.model.design, fit.fitted().to_numpy()
    W = d.trials * mean * (1 - mean)
    Z = np.hstack([d.X, np.eye(15)[d.factors[0].codes] * fit.theta])
    inside = Z.T @ (Z * W[:, None]) + np.diag([0.0] * 4 + [1.0] * 15)
    close(rows.leverage, W * np.einsum("nk,nk->n", Z, np.linalg.solve(inside, Z.T).T), 1e-8)
    data = mm.datasets.load("cbpp").drop(index=4)
    without = mm.glmm(fit.formula, data, "binomial")
    change = np.append(without.fixef - fit.fixef, without.theta - fit.theta)
    np.testing.assert_allclose(rows.derivative.loc[4], change, atol=0.1 * np.abs(change).max())


def test_what_cannot_be_fitted_without_a_level(fit):
    """A coefficient that only one level tells, in a row of NaN with its status; the others are as they were."""
    data = mm.datasets.load("sleepstudy").assign(own=lambda d: (d["Subject"].astype(str) == "308") * d["Days"])
    own = mm.lmm("Reaction ~ Days + own + (1 | Subject)", data)
    found = own.influence("Subject")
    assert found.status["308"] != "converged" and found.exact.loc["308"].isna().all()
    assert found.exact.drop(index="308").notna().all(axis=None)
    assert "1 of the fits did not converge" in repr(found)


def test_what_is_asked_for(fit):
    with says(ValueError, "by must be one of 'case', 'Subject', not 'subject'"):
        fit.influence("subject")
    with says(TypeError, "no keyword 'groups'", "by='Subject'"):
        fit.influence(groups="Subject")
    quick = fit.influence("Subject", refit=False)
    with says(ValueError, "refit=True"):
        quick.exact  # noqa: B018
    with says(ValueError, "linear models"):
        glmm_fitted("cbpp").influence("herd", refit=False).marginal_leverage  # noqa: B018
    assert (quick.status == "not fitted again").all()
    close(quick.dfbetas, fit.influence("Subject").dfbetas, 0.1)


def test_the_picture(fit):
    pytest.importorskip("matplotlib").use("Agg")
    axes = fit.influence("Subject", refit=False).plot()
    assert axes.get_ylabel() == "Cook's distance" and 1 < len(axes.texts) <= 5
    assert axes.get_xlabel() == "leverage (of a level of Subject)"


def test_a_model_without_leverages(fit, headless):
    """Its points are drawn in order, and it is said."""
    found = replace(fit.influence("Subject", refit=False), _leverage=np.full(18, np.nan))
    axes = found.plot()
    assert " ".join(axes.get_xlabel().split()) == "number of the level of Subject, in order"
    drawn = np.concatenate([line.get_xdata() for line in axes.lines[:2]])
    assert sorted(drawn) == list(range(1, 19)) and len(axes.texts) > 2
    assert "leverage: NaN, not defined where several" in " ".join(repr(found).split())


def test_a_level_that_alone_has_a_coefficient(sleepstudy):
    """Without it there is no such coefficient: NaN, and said so; the others are what they are."""
    data = sleepstudy.assign(only=(sleepstudy["Subject"].astype(str) == "308").astype(float))
    found = mm.lmm("Reaction ~ Days + only + (1 | Subject)", data).influence("Subject")
    assert found.status["308"] == "not estimable" and (found.status.drop("308") == "converged").all()
    for table in (found.exact, found.derivative, found.infinitesimal, found.dfbetas):
        assert table.loc["308"].isna().all() and np.isfinite(table.drop("308")).all(axis=None)
    assert "no data for a coefficient" in repr(found)
