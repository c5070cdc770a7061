"""The pictures: what they draw, from which numbers, and what they refuse."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from _standins import dense_fit, sleepstudy_fit

import jaxmm as mm
from jaxmm import families, plots
from jaxmm._axes import names_of, scale_of
from jaxmm.inference import wald

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("headless")


@pytest.fixture(scope="module")
def fit():
    return sleepstudy_fit()


def test_caterpillar(fit):
    axes = plots.caterpillar(fit)
    assert [a.get_title() for a in axes] == ["Subject: (Intercept)", "Subject: Days"]
    ax = plots.caterpillar(fit, "Subject", "Days")
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == [str(k) for k in fit.ranef()["Subject"]["Days"].sort_values().index]
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match="no effect 'days'"):
        plots.caterpillar(fit, effect="days")
    with pytest.raises(ValueError, match="no grouping factor 'Item'"):
        plots.caterpillar(fit, "Item")
    with pytest.raises(ValueError, match="name the one for this ax"):
        plots.caterpillar(fit, ax=ax)


def test_caterpillar_in_one_order(fit):
    axes = plots.caterpillar(fit, order="Days")
    by_days = [str(k) for k in fit.ranef()["Subject"]["Days"].sort_values().index]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == by_days
    modes = fit.ranef()["Subject"].loc[by_days, "(Intercept)"]
    shown = {y: x for line in axes[0].get_lines()[:2] for x, y in zip(*line.get_data(), strict=True)}
    assert [shown[k] for k in range(18)] == pytest.approx(modes.to_numpy())
    assert [t.get_text() for t in axes[0].figure.legends[0].get_texts()] == [
        "interval holds zero",
        "interval clear of zero",
    ]
    ax = plots.caterpillar(fit, effect="Days", order="levels")
    assert [t.get_text() for t in ax.get_yticklabels()][::-1] == [str(k) for k in fit.ranef()["Subject"].index]
    with pytest.raises(
        ValueError, match=r"order must be one of the effects of Subject, .*'Days', or 'levels', not 'x'"
    ):
        plots.caterpillar(fit, order="x")


def test_effects(fit):
    """Lines and bands are the marginal means that the fit gives."""

    def emmeans(specs, at, scale, level):
        x, by = np.asarray(at["Days"], float), at.get("by", [0.0])
        frame = pd.DataFrame([(v, w) for w in by for v in x], columns=["Days", "by"])
        frame["emmean"] = 1 + 2 * frame["Days"] + frame["by"]
        frame = frame.assign(lower=frame["emmean"] - 1, upper=frame["emmean"] + 1)
        return SimpleNamespace(what="emmean", frame=frame, header=("Marginal means", "averaged over the levels of a"))

    seen = {"Days": SimpleNamespace(labels=None, low=0.0, high=9.0), "a": SimpleNamespace(labels=["b"])}
    design = SimpleNamespace(response="Reaction", spec=SimpleNamespace(seen=SimpleNamespace(columns=seen)))
    model = SimpleNamespace(design=design)
    stand_in = SimpleNamespace(emmeans=emmeans, varcorr=fit.varcorr, family=fit.family, model=model)
    ax = plots.effects(stand_in, "Days")
    x, y = ax.get_lines()[0].get_data()
    assert (x[0], x[-1]) == (0, 9) and y == pytest.approx(1 + 2 * np.asarray(x))
    assert ax.get_xlabel() == "Days" and ax.get_ylabel() == "mean of Reaction"
    assert ax.get_title(loc="left") == "averaged over the levels of a"
    ax = plots.effects(stand_in, "Days", "by", at={"by": [0.0, 5.0]})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0", "5"] and len(ax.collections) == 2
    assert len({line.get_linestyle() for line in ax.get_lines()}) == 2  # told apart in grey too
    with pytest.raises(ValueError, match=r"x must be a covariate of the formula, 'Days', not 'a'; fit.emmeans\('a'\)"):
        plots.effects(stand_in, "a")
    with pytest.raises(ValueError, match="'by' has 8 levels, more than can be told apart"):
        plots.effects(stand_in, "Days", "by", at={"by": np.arange(8.0)})


def test_effects_of_a_fit():
    """The band is Lβ̂ ± t √(L V L') with the degrees of freedom of each row."""
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
    ax = plots.effects(fit, "Days", points=4, level=0.9)
    L = np.column_stack([np.ones(4), [0.0, 3.0, 6.0, 9.0]])
    reference = fit.reference()
    mean, se = L @ reference.beta, np.sqrt(np.diag(L @ reference.vcov @ L.T))
    assert ax.get_lines()[0].get_data()[1] == pytest.approx(mean)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    half = wald.quantile(0.9, reference.df(L)) * se
    assert [band.min(), band.max()] == pytest.approx([np.min(mean - half), np.max(mean + half)])


def test_width_of_shrinkage(fit):
    figure = plots.shrinkage(fit, levels=["309", "335", "308"], width=3.15)
    assert figure.get_figwidth() == 3.15
    assert len({round(a.get_position().x0, 2) for a in figure.axes if a.get_visible()}) == 2
    with pytest.raises(ValueError, match="width must be inches, 2 or more, not 1"):
        plots.shrinkage(fit, width=1)


def test_shrinkage_lines(fit):
    figure = plots.shrinkage(fit)
    figure.canvas.draw()
    panels = [a for a in figure.axes if a.get_visible()]
    assert [a.get_title() for a in panels] == [str(k) for k in fit.ranef()["Subject"].index]
    lines = {line.get_label(): line for line in panels[3].get_lines()}
    assert set(lines) == {"data", "population", "its own least squares", "BLUP"}
    design = fit.model.design
    rows = design.factors[0].codes == 3
    slope, intercept = np.polyfit(design.X[rows, 1], design.y[rows], 1)
    assert lines["its own least squares"].get_ydata() == pytest.approx([intercept, intercept + 9 * slope])
    coef = fit.fixef.to_numpy() + fit.ranef()["Subject"].to_numpy()[3]
    assert lines["BLUP"].get_ydata() == pytest.approx([coef[0], coef[0] + 9 * coef[1]])


def test_shrinkage_of_chosen_levels(fit):
    figure = plots.shrinkage(fit, levels=["309", "335"])
    assert [a.get_title() for a in figure.axes if a.get_visible()] == ["309", "335"]
    figure = plots.shrinkage(fit, max_levels=4)
    assert sum(a.get_visible() for a in figure.axes) == 4
    with pytest.raises(ValueError, match="no level '999'"):
        plots.shrinkage(fit, levels=["999"])


def test_arrows_and_ellipse(fit):
    ax = plots.shrinkage_arrows(fit)
    ax.figure.canvas.draw()
    lines = {line.get_label(): line for line in ax.get_lines()}
    points = np.column_stack(lines["95% of the population (VarCorr)"].get_data()) - fit.fixef.to_numpy()
    D = fit.varcorr().cov["Subject"].to_numpy()
    distance = np.einsum("ki,ij,kj->k", points, np.linalg.inv(D), points)
    assert distance == pytest.approx(np.full(101, 5.991464547))
    assert len(ax.texts) == 18


def test_level_with_one_row_has_no_own_line():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(5, dtype=np.int32), [1, 6, 6, 6, 6])
    x, y = rng.normal(size=25), rng.normal(size=25)
    fit = dense_fit(y, x, codes, list("abcde"), np.eye(2), 1.0)
    lines = plots.lines._lines(fit, None)
    assert np.isnan(lines.own[0]).all() and np.isfinite(lines.own[1:]).all()
    plots.shrinkage(fit).canvas.draw()
    plots.shrinkage_arrows(fit).figure.canvas.draw()


def test_needs_an_intercept_and_a_slope(fit):
    table = fit.ranef()["Subject"]
    fit = sleepstudy_fit(ranef=lambda: {"Subject": table[["Days"]]})
    with pytest.raises(ValueError, match="Subject has Days; caterpillar"):
        plots.shrinkage(fit)


def test_without_matplotlib(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install jaxmm\[plot\]"):
        plots.caterpillar(fit)


def test_long_names_stay_apart_and_short():
    names = names_of([f"participant-{k:02d}-of-the-second-session" for k in range(12)])
    assert len(set(names)) == 12 and max(map(len, names)) <= 24
    assert names_of([1, "b"]) == ["1", "b"]


def test_log_odds_are_named(fit):
    def called(family):
        design = SimpleNamespace(response="y")
        return scale_of(SimpleNamespace(family=family, model=SimpleNamespace(design=design)))

    assert [called(f()) for f in (families.Binomial, families.Poisson)] == ["log odds of y", "log of y"]
    assert called(fit.family) == "y"
