"""What notebooks show: each result as text of at most 80 columns, and as HTML that says the same."""

import html
import re

import jax
import pytest

import jaxmm as mm
from jaxmm._text import Grid
from jaxmm.diagnose.finding import Check

TRUTH = {"fixef": {"(Intercept)": 1.0, "x": 0.5}, "sd": {"s": 0.6}, "sigma": 1.0}
KEY = jax.random.key(1)
SENTENCES = {"exact", "multistart", "residuals", "uniformity", "check"}  # no table


@pytest.fixture(scope="module")
def shown(sleep_reml, sleep_ml):
    sleepstudy = mm.datasets.load("sleepstudy")
    residuals = sleep_reml.simulated_residuals(20, key=KEY)
    model = mm.plan("y ~ x + (1 | s)", mm.make_design({"s": 10}, within={"x": [0, 1]}, repeats=2))
    curve = mm.power_curve(model, TRUTH, 40, along={"s": [8, 10]}, key=KEY, test="x", progress=False)
    smaller = mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy, reml=False)
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
        "terms": sleep_reml.anova(),
        "test": sleep_reml.test(["Days = 0", "(Intercept) = 250"]),
        "exact": mm.exact_rlrt(mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy), key=KEY, n=20),
        "influence": sleep_reml.influence("Subject"),
        "profile": sleep_ml.profile("Days"),
        "multistart": sleep_reml.multistart(2, key=KEY),
        "residuals": residuals,
        "uniformity": residuals.test_uniformity(),
        "check": sleep_reml.check(),
        "components": sleep_reml.re_pca(),
        "means": sleep_reml.emmeans("Days", at={"Days": [0, 5, 9]}),
        "contrasts": sleep_reml.emmeans("Days", at={"Days": [0, 5, 9]}).contrasts(),
        "predictions": sleep_reml.predict(interval="confidence"),
    }


NAMES = """fit model varcorr ranef shrinkage anova batch bootstrap study power curve terms test exact influence profile
multistart residuals uniformity check components means contrasts predictions""".split()


@pytest.mark.parametrize("name", NAMES)
def test_text_and_html(shown, name):
    text, page = repr(shown[name]), shown[name]._repr_html_()
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall("<t[dh] ", page)) == page.count("padding")
    assert not re.search("color|border", page), "the page's own colours hold in the dark too"
    assert "<table" in page or name in SENTENCES
    for tag in ("table", "tr", "td", "th", "p"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")
    if name == "fit":  # quantiles of residuals and correlations of coefficients are in the text alone
        text = text.partition("Scaled residuals")[0] + text.partition("Random effects")[2].partition("Correlation")[0]
    words = set(re.findall(r"[A-Za-z]{4,}", text))
    told = set(re.findall(r"[A-Za-z]{4,}", html.unescape(re.sub(r"<[^>]*>", " ", page))))
    assert not words - told, "said in the text alone"


def test_what_is_left_out_is_counted(shown):
    for text in (repr, lambda result: result._repr_html_()):
        assert "12 more levels" in text(shown["ranef"])
        assert "160 more rows" in text(shown["predictions"])
    many = shown["fit"].emmeans("Days", at={"Days": list(range(101))})
    assert "... 1 more row: frame" in repr(many) and "... 1 more row: frame" in many._repr_html_()


def test_a_wide_table_goes_on_below_itself():
    table = Grid([["", *"abc"], ["name", *("x" * 30,) * 3]], [False] + [True] * 3)
    assert [len(line) for line in table.lines()] == [68, 68, 0, 36, 36]
    assert [line[:4] for line in table.lines()] == ["    ", "name", "", "    ", "name"]
    assert table.html().count("<tr>") == 2


def test_html_is_escaped():
    check = Check("y ~ x + (1 | g)", (), {}, {"zeros": "p < 0.05 & more"})
    assert "p &lt; 0.05 &amp; more" in check._repr_html_()


def test_comparisons_keep_their_formulas(shown):
    page = shown["anova"]._repr_html_()
    assert "Reaction ~ Days + (1 | Subject)" in page and "Reaction ~ Days + (Days | Subject)" in page
