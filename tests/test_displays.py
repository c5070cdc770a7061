"""What notebooks show: each result as text of at most 80 columns, and as HTML that says the same."""

import html
import re

import jax
import pytest

import jaxmm as mm

TRUTH = {"fixef": {"(Intercept)": 1.0, "x": 0.5}, "sd": {"s": 0.6}, "sigma": 1.0}
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def shown(sleep_reml, sleep_ml):
    model = mm.plan("y ~ x + (1 | s)", mm.make_design({"s": 10}, within={"x": [0, 1]}, repeats=2))
    curve = mm.power_curve(model, TRUTH, 40, along={"s": [8, 10]}, key=KEY, test="x", progress=False)
    smaller = mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"), reml=False)
    return {
        "fit": sleep_reml,
        "model": sleep_reml.model,
        "varcorr": sleep_reml.varcorr(),
        "ranef": sleep_reml.ranef(),
        "shrinkage": sleep_reml.shrinkage(),
        "anova": mm.anova(smaller, sleep_ml),
        "batch": mm.fit_many(sleep_reml.model, sleep_reml.simulate(20, key=KEY), progress=False),
        "bootstrap": sleep_reml.bootstrap(20, key=KEY, progress=False),
        "study": mm.study(model, TRUTH, 40, key=KEY, progress=False),
        "power": mm.power(model, TRUTH, 40, key=KEY, test="x", progress=False),
        "curve": curve,
    }


NAMES = "fit model varcorr ranef shrinkage anova batch bootstrap study power curve".split()
WIDE = {"study", "power", "curve", "anova"}  # tables of many columns


@pytest.mark.parametrize("name", NAMES)
def test_text_and_html(shown, name):
    text, page = repr(shown[name]), shown[name]._repr_html_()
    if name not in WIDE:
        assert max(map(len, text.splitlines())) <= 80
    assert ("<table" in page and "padding" in page) or "dataframe" in page
    for tag in ("table", "tr", "td", "th", "p"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")
    if name == "fit":  # quantiles of residuals and correlations of coefficients are in the text alone
        text = text.partition("Scaled residuals")[0] + text.partition("Random effects")[2].partition("Correlation")[0]
    words = set(re.findall(r"[A-Za-z]{4,}", text))
    told = set(re.findall(r"[A-Za-z]{4,}", html.unescape(re.sub(r"<[^>]*>", " ", page))))
    assert not words - told, "said in the text alone"


def test_what_is_left_out_is_counted(shown):
    assert "12 more levels" in shown["ranef"]._repr_html_()


def test_comparisons_keep_their_formulas(shown):
    page = shown["anova"]._repr_html_()
    assert "Reaction ~ Days + (1 | Subject)" in page and "Reaction ~ Days + (Days | Subject)" in page
