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


@pytest.fixture(scope="module")
def many():
    """Twelve responses as fits would have them, three with an effect, one failed."""
    from jaxmm.optimize import Status
    from jaxmm.results.result import FitBatch
    from jaxmm.results.schema import Names, blank
    from jaxmm.sources.labelled import Labels

    names = Names(("(Intercept)", "x"), 1, (("g", "(Intercept)"),), (), True, False, True)
    z = np.array([0.1, -0.3, 5.0, 0.8, -1.1, 6.0, 1.3, -4.5, 0.2, -0.6, 0.4, 9.0])
    columns = blank(names, 12) | {"replicate": np.arange(12), "bse": np.tile(0.5, (12, 2))}
    columns["fixef"] = np.stack([np.ones(12), 0.5 * z], axis=1)
    columns["status"] = np.where(np.arange(12) == 11, Status.NOT_FINITE, 0).astype(np.int8)
    return FitBatch(names, columns, labels=Labels.of("gene", [f"gene{k}" for k in range(12)]))


def points(ax, filled):
    """Of the lines of points whose dots are filled, or are not: (x, y)."""
    from matplotlib.colors import to_rgba

    hollow = {to_rgba("none"), to_rgba("white")}
    lines = [line for line in ax.get_lines() if line.get_marker() == "o"]
    own = [line for line in lines if (to_rgba(line.get_markerfacecolor()) not in hollow) == filled]
    return np.concatenate([line.get_xydata() for line in own])


def test_volcano(many):
    ax = plots.volcano(many)
    table = many.test_table("x").head(11)
    np.testing.assert_allclose(sorted(points(ax, True)[:, 0]), [-2.25, 2.5, 3.0])
    assert len(points(ax, False)) == 8
    np.testing.assert_allclose(points(ax, True)[:, 1], -np.log10(table["p"][[2, 5, 7]]))
    assert [t.get_text() for t in ax.texts] == ["gene5", "gene2", "gene7"]
    lines = ax.get_title(loc="left").split("\n")
    assert lines[0] == "3 of 11 responses found, adjusted p ≤ 0.05" and lines[1].startswith("1 more without")
    assert ax.get_xlabel() == "x"
    ax.figure.canvas.draw()
    own = plots.volcano(many.test_table("x", adjust="bonferroni"), rate=1e-7, names=0)
    assert len(points(own, True)) == 1 and not own.texts
    assert plots.volcano(many, "(Intercept)", ax=ax) is ax


def test_p_histogram(many):
    ax = plots.p_histogram(many, bins=10)
    assert [int(b.get_height()) for b in ax.patches] == list(
        np.histogram(many.test_table("x")["p"][:11], 10, (0, 1))[0]
    )
    (line,) = ax.get_lines()
    share = np.mean(many.test_table("x")["p"][:11] > 0.5) * 2
    assert line.get_ydata()[0] == pytest.approx(share * 11 / 10)
    assert f"about {share:.0%} without an effect" in ax.get_title(loc="left")


def test_effects_by_response(many):
    ax = plots.effects_by_response(many, "x", most=4)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["gene7", "gene6", "gene2", "gene5"]  # by estimate, from below
    assert points(ax, True).tolist() == [[-2.25, 0], [2.5, 2], [3.0, 3]]
    ends = np.array(ax.collections[-1].get_segments())[:, :, 0]
    np.testing.assert_allclose(ends[0], -2.25 + 0.5 * np.array([-1, 1]) * wald.quantile(0.95))
    assert "4 responses of 11" in ax.get_title(loc="left").replace("\n", " ")
    ax.figure.canvas.draw()
    assert plots.effects_by_response(many.test_table("x", level=0.9)).get_yticklabels()


def test_pictures_of_tests_refuse(many, fit):
    with pytest.raises(TypeError, match=r"of a FitBatch or its test_table\(\), not of a Simple"):
        plots.volcano(fit)
    with pytest.raises(ValueError, match=r"no coefficient 'z'; the tests are of '\(Intercept\)', 'x'"):
        plots.p_histogram(many, "z")
    with pytest.raises(ValueError, match=r"no intervals: make it with test_table\(level=0.95\)"):
        plots.effects_by_response(many.test_table("x"))
    with pytest.raises(ValueError, match=r"rate must lie between 0 and 1, not 5; 0\.05 for one false"):
        plots.volcano(many, rate=5)
    with pytest.raises(ValueError, match="no response has a p-value: 1 fits"):
        plots.volcano(many.take([11]))
    two = many.test_table().assign(coef=["a"] * 12 + ["b"] * 12)
    with pytest.raises(ValueError, match="a picture is of one coefficient: name it, of 'a', 'b'"):
        plots.volcano(two)
