"""Principal components of random effects: the algebra, lme4's numbers, what is superfluous."""

import json
from pathlib import Path

import numpy as np
import pytest
from glmm_fits import fitted
from helpers import says

import jaxmm as mm

REFERENCE = json.loads((Path(__file__).parent / "reference" / "diagnose.json").read_text())["pca"]


def lme4s(name: str) -> mm.Fit:
    tables = {"Reaction": "sleepstudy", "score": "machines"}
    if name.startswith("cbind"):
        return fitted("cbpp")
    return mm.lmm(name, mm.datasets.load(tables[name.split(" ")[0]]))


@pytest.mark.parametrize("name", REFERENCE)
def test_lme4(name):
    fit = lme4s(name)
    found = fit.re_pca()
    for group, expected in REFERENCE[name].items():
        own = found.to_frame().loc[group]
        np.testing.assert_allclose(own["relative_sd"], np.atleast_1d(expected["sd"]), rtol=5e-4)
        loadings = np.abs(found.loadings[group].to_numpy())
        np.testing.assert_allclose(loadings, np.reshape(expected["loadings"], loadings.shape), atol=2e-3)


def test_they_are_those_of_D(sleep_reml):
    found = sleep_reml.re_pca()["Subject"]
    Q, s = found.loadings.to_numpy(), found.sd.to_numpy()
    np.testing.assert_allclose((Q * s**2) @ Q.T, sleep_reml.varcorr().cov["Subject"], rtol=1e-12)
    np.testing.assert_allclose(Q.T @ Q, np.eye(2), atol=1e-14)
    assert found.rank == 2 and found.proportion.sum() == pytest.approx(1) and found.cumulative.iloc[-1] == 1
    assert Q[np.abs(Q).argmax(0), [0, 1]].min() > 0


def test_what_is_printed(sleep_reml, weighted):
    text = repr(sleep_reml.re_pca())
    assert "Subject" in text and "PC1" in text and "%" in text and "(Intercept)" in text and "fits as well" not in text
    frame = weighted.re_pca().to_frame()
    assert list(frame.index) == [("g", "PC1"), ("g", "PC2"), ("h", "PC1")]
    assert list(weighted.re_pca()) == ["g", "h"] and set(weighted.re_pca().sd) == {"g", "h"}
    with says(KeyError, "no grouping factor 'k'; the model has 'g', 'h'"):
        weighted.re_pca()["k"]
    assert sleep_reml.re_pca()._repr_html_().count("<table") == 1


def test_a_singular_fit_says_what_is_superfluous():
    """Random slopes of a predictor that varies within levels alone, and one factor without any variance."""
    rng = np.random.default_rng(0)
    g, h, x = np.repeat(np.arange(12), 10), np.tile(np.arange(5), 24), rng.normal(size=120)
    y = 2 * rng.normal(size=12)[g] + rng.normal(size=120)
    x, y = (v - np.array([v[h == k].mean() for k in range(5)])[h] for v in (x, y))
    fit = mm.lmm("y ~ x + (x || g) + (1 | h)", {"y": y, "x": x, "g": g, "h": h})
    found = fit.re_pca()
    assert found["h"].rank == 0 and np.isnan(found["h"].proportion).all()
    assert any(note.startswith("h: no effect has any variance") for note in found.notes)
    if found["g"].rank == 1:
        assert found["g"].needless == ["x"] and "1 of 2 components" in repr(found)


def test_a_structure_that_ties_variances_has_no_effect_to_be_left_out():
    rng = np.random.default_rng(1)
    g, t = np.repeat(np.arange(10), 8), np.tile(np.arange(4), 20)
    y = 2 * rng.normal(size=(10, 4))[g, t] + rng.normal(size=80)
    y -= np.array([y[g == k].mean() for k in range(10)])[g]  # a correlation of -1/3, the least that four can have
    fit = mm.lmm("y ~ 1 + homcs(0 + t | g)", {"y": y, "g": g, "t": [f"t{k}" for k in t]})
    (note,) = fit.re_pca().notes
    assert "3 of 4 components have variance; a correlation is at the end of its range" in note
