"""Mistakes that newcomers make, as they type them: the error says what is wrong and what to write instead."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from helpers import says

import jaxmm as mm
from jaxmm import DataError, FormulaError

SLEEP = "Reaction ~ Days + (Days | Subject)"
FAMILIES = "binomial, poisson, gamma, inverse_gaussian, nbinom1, nbinom2, beta, betabinomial, gaussian, tweedie"
KEY = "a whole number of your choice, such as key=1; the same number gives the same results"


@pytest.fixture(scope="module")
def names() -> dict:
    """What is at hand when they type."""
    sleep, cbpp = mm.datasets.load("sleepstudy"), mm.datasets.load("cbpp")
    fit = mm.lmm(SLEEP, sleep)
    herds = mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial")
    return {"mm": mm, "np": np, "pd": pd, "S": sleep, "C": cbpp, "F": SLEEP, "fit": fit, "herds": herds}


# what is typed; the error; words of its text, in this order
FORMULAS = [
    ("mm.lmm('Reaction ~ Days', S)", DataError, "has no random-effects term: add one such as (1 | group)"),
    ("mm.lmm('Reaction, Days', S)", FormulaError, "two sides joined by '~': y ~ x + (1 | g)"),
    ("mm.lmm('Reaction ~ Days + Days | Subject', S)", FormulaError, "own brackets: (Days + Days | Subject)"),
    ("mm.lmm('Reaction ~ Days**2 + (1 | Subject)', S)", FormulaError, "'**' is written '^' in a formula: I(x^2)"),
    ("mm.lmm('np.log(Reaction) ~ Days + (1 | Subject)', S)", FormulaError, "write log(Reaction)"),
    ("mm.lmm('Reaction ~ C(Days) + (1 | Subject)', S)", FormulaError, "write factor(x)"),
    ("mm.lmm('Reaction ~ s(Days) + (1 | Subject)', S)", FormulaError, "ns(x, 3) or bs(x, 5) are splines"),
    ("mm.lmm(S, F)", FormulaError, "not DataFrame (the formula comes first, then the table)"),
    ("mm.lmm('Reaction ~ days + (1 | Subject)', S)", DataError, "no column 'days'; did you mean 'Days'?"),
    ("mm.lmm('Reaction ~ Days + (1 | Subjct)', S)", DataError, "a grouping factor; did you mean 'Subject'?"),
]
TABLES = [
    ("mm.lmm(F)", TypeError, "lmm() needs data=, the table whose columns the formula names"),
    ("mm.lmm(F, 'sleepstudy.csv')", DataError, "not str; read the file first: pandas.read_csv(path)"),
    ("mm.lmm(F, S.to_numpy())", DataError, "not ndarray; give its columns names: pandas.DataFrame(array, columns="),
    ("mm.lmm('Reaction ~ x + (1 | Subject)', S.assign(x=np.nan))", DataError, "missing values in 'x' 180 of 180 rows"),
    ("mm.lmm(F, S.assign(Reaction=np.inf))", DataError, "'Reaction' is infinite at row 0", "correct the value"),
    ("mm.lmm(F, S.assign(Reaction=S.Reaction.astype(str) + 'ms'))", DataError, "pandas.to_numeric"),
    ("mm.lmm('Reaction ~ Days + (1 | id)', S.assign(id=range(180)))", DataError, "180 levels", "group by something"),
    ("mm.lmm('Reaction ~ Days + (1 | g)', S.assign(g='a'))", DataError, "has the one level 'a'", "leave the term out"),
    ("mm.lmm(F, S, weights='w')", DataError, "no column 'w' for weights=; the table has 'Reaction', 'Days', 'Subject'"),
    ("mm.lmm(F, S, offset=np.ones(5))", DataError, "offset has shape (5,) and the data have 180 rows"),
    ("mm.lmm(F, S, missing='omit')", DataError, "missing must be 'drop' or 'raise', not 'omit'"),
    ("mm.lmm(F, S, contrasts='sum')", DataError, "contrasts must be a mapping such as {'column': 'sum'}, not 'sum'"),
    ("mm.datasets.load('sleep')", ValueError, "no data set named 'sleep'; there are sleepstudy"),
]
KEYWORDS = [
    ("mm.lmm(F, S, REML=False)", TypeError, "no keyword 'REML': reml=True or reml=False"),
    ("mm.lmm(F, S, method='ML')", TypeError, "reml=False is maximum likelihood"),
    ("mm.lmm(F, S, family='poisson')", TypeError, "use glmm(formula, data, family)"),
    ("mm.lmm('Reaction ~ Days', S, groups='Subject')", TypeError, "stands in the formula: y ~ x + (1 | group)"),
    ("fit.simulate(10, seed=1)", TypeError, "no keyword 'seed': key=seed"),
    ("fit.predict(type='response')", TypeError, "scale='response' or scale='link'"),
    ("fit.bootstrap(nsim=10, key=1)", TypeError, "the number of replicates is n="),
    ("mm.power(fit, nsim=10)", TypeError, "the number of simulated responses is n="),
    ("mm.power_curve(fit, breaks=[10, 20])", TypeError, "along={'subject': [20, 40, 80]}"),
]
FAMILY = [
    ("mm.glmm('incidence ~ period + (1 | herd)', C)", TypeError, f"glmm() needs family=, one of {FAMILIES}", "lmm("),
    ("mm.glmm(F, S, 'binomal')", ValueError, "did you mean 'binomial'?"),
    ("mm.glmm(F, S, 'negative_binomial')", ValueError, "did you mean 'nbinom2'?"),
    ("mm.glmm(F, S, mm.families.Poisson)", ValueError, "make an instance, Poisson()"),
    ("mm.glmm('incidence ~ period + (1 | herd)', C, 'binomial')", DataError, "cbind(incidence, trials - incidence)"),
    (
        "mm.glmm('p ~ period + (1 | herd)', C.assign(p=C['incidence'] / C['size']), 'binomial')",
        DataError,
        "pass weights= the numbers of trials",
    ),
    ("mm.glmm(F, S, 'poisson')", DataError, "is 249.56 at row 0 and at 178 more: the poisson family takes whole"),
    (
        "mm.glmm('incidence ~ 1 + (1 | herd) + (1 | period)', C, 'poisson', n_agq=5)",
        ValueError,
        "needs one grouping factor, and the model has 2: use n_agq=1",
    ),
]
KEYS = [
    ("fit.simulate(10)", TypeError, f"simulate() needs key=, {KEY}"),
    ("fit.simulate(10, 1)", TypeError, f"simulate() needs key=, {KEY}"),
    ("fit.bootstrap(10)", TypeError, f"bootstrap() needs key=, {KEY}"),
    ("mm.bootstrap(fit, 10)", TypeError, f"bootstrap() needs key=, {KEY}"),
    ("fit.multistart()", TypeError, f"multistart() needs key=, {KEY}"),
    ("fit.simulated_residuals()", TypeError, f"simulated_residuals() needs key=, {KEY}"),
    ("mm.study(fit, None, 10)", TypeError, f"study() needs key=, {KEY}"),
    ("mm.power(fit)", TypeError, f"power() needs key=, {KEY}"),
    ("mm.power_curve(fit, along={'Subject': [10]})", TypeError, f"power_curve() needs key=, {KEY}"),
    ("mm.exact_rlrt(fit)", TypeError, f"exact_rlrt() needs key=, {KEY}"),
    ("mm.Simulated(fit.model, fit, 10)", TypeError, f"Simulated() needs key=, {KEY}"),
    ("mm.DirectlySimulated(fit.model, fit, 10)", TypeError, f"DirectlySimulated() needs key=, {KEY}"),
    ("mm.Generated(np.ones, 10)", TypeError, f"Generated() needs key=, {KEY}"),
    ("fit.simulate(1, key='a')", TypeError, "key must be a seed, a whole number", "such as key=1", "not 'a'"),
    ("fit.bootstrap(key=1)", TypeError, "bootstrap() needs n=, the number of them, such as n=1000"),
    ("mm.study(fit)", TypeError, "study() needs truth=, a fit, or {'fixef'", "None for the fit that comes first"),
    ("mm.power_curve(fit, key=1)", TypeError, "power_curve() needs along=, factor -> sizes, such as {'subject'"),
]
ELSEWHERE = [
    ("mm.lmer(F, S)", AttributeError, "module 'jaxmm' has no attribute 'lmer': write mm.lmm(formula, data)"),
    ("mm.glmer(F, S)", AttributeError, "write mm.glmm(formula, data, family)"),
    ("mm.glmmTMB", AttributeError, "write mm.glmm(formula, data, family), with dispersion= and zero_inflation="),
    ("mm.VarCorr(fit)", AttributeError, "write fit.varcorr()"),
    ("mm.ranef(fit)", AttributeError, "it is a verb of a fit, fit.ranef()"),
    ("mm.fixef(fit)", AttributeError, "it is a property of a fit, fit.fixef"),
    ("mm.fit_mny", AttributeError, "did you mean 'fit_many'?"),
    ("fit.VarCorr()", AttributeError, "'Fit' object has no attribute 'VarCorr': write fit.varcorr()"),
    ("fit.pvalue", AttributeError, "write fit.pvalues"),
    ("fit.random_effects", AttributeError, "write fit.ranef()[group]"),
    ("fit.loglike", AttributeError, "did you mean 'loglik'?"),
]
TESTS = [
    ("fit.coef_table(ddf='Kenward')", ValueError, "not 'Kenward'; did you mean 'kenward-roger'?"),
    ("fit.coef_table(ddf='satterthwait')", ValueError, "did you mean 'satterthwaite'?"),
    ("fit.coef_table(ddf='KR')", ValueError, "did you mean 'kenward-roger'?"),
    ("herds.coef_table(ddf='kenward-roger')", ValueError, "is for linear mixed models; this one takes 'asymptotic'"),
    ("fit.confint('profiled')", ValueError, "method must be 'wald', 'profile' or 'bootstrap', not 'profiled'"),
    ("fit.confint(level=95)", ValueError, "level must lie between 0 and 1, not 95; 0.95 for a 95 % interval"),
    ("fit.confint(parm='days')", ValueError, "no parameter 'days'; parm takes '(Intercept)', 'Days'"),
    ("fit.test('Day = 0')", ValueError, "no coefficient 'Day'; did you mean 'Days'?"),
    ("fit.emmeans('Group')", ValueError, "no 'Group' in the fixed effects; specs and by take their columns: 'Days'"),
    ("herds.emmeans('period').contrasts('pairwse')", ValueError, "'pairwise'", "not 'pairwse'"),
    ("mm.anova(fit)", ValueError, "anova compares two fits or more: mm.anova(fit0, fit1)"),
    ("mm.anova(fit, 'Days')", TypeError, "anova compares jaxmm fits, not str"),
    ("mm.power(fit, n=10, key=1, test='Dayz')", ValueError, "no term 'Dayz'; the model has '(Intercept)', 'Days'"),
    ("mm.power(fit, n=10, key=1, effects={'Dayz': 5})", ValueError, "effects names 'Dayz'", "there are '(Intercept)'"),
    ("mm.power(fit, 10, key=1)", TypeError, "truth must be a Fit", "not 10; a number of responses is n=10"),
    ("mm.study(fit, None, 10, key=1, lrt='Dayz')", ValueError, "no term 'Dayz'; the model has '(Intercept)', 'Days'"),
]
PREDICTIONS = [
    ("fit.predict(pd.DataFrame({'Subject': ['308']}))", DataError, "no column 'Days' in the new data"),
    (
        "fit.predict(pd.DataFrame({'Days': [1], 'Subject': ['new']}))",
        DataError,
        "has not seen the level 'new' of 'Subject': pass new_levels='population'",
    ),
    ("fit.predict(pd.DataFrame({'Days': ['one'], 'Subject': ['308']}))", DataError, "'Days' holds text", "to_numeric"),
    (
        "herds.predict(pd.DataFrame({'period': ['9'], 'herd': ['1']}))",
        DataError,
        "'period' holds '9', which the fit has not seen; its levels are '1', '2', '3', '4'",
    ),
    ("fit.predict(S, interval=True)", ValueError, "interval must be None, 'confidence' or 'prediction', not True"),
    ("fit.refit(np.ones(3))", DataError, "the response must have 180 values", "got shape (3,)"),
    ("mm.fit_many(fit.model, np.ones((180, 3)))", DataError, "got shape (180, 3)", "pass Y.T"),
    ("mm.fit_many(S, np.ones((3, 180)))", TypeError, "model must be a jaxmm.Model or a fit, not DataFrame"),
]
PICTURES = [
    ("mm.plots.caterpillar(S)", TypeError, "caterpillar takes a fit, as from lmm(), glmm() or model.fit(), not DataF"),
    ("mm.plots.qq_ranef(fit.ranef())", TypeError, "qq_ranef takes a fit", "not RandomEffects"),
    ("mm.plots.effects('x', 'Days')", TypeError, "effects takes a fit", "not str"),
    ("mm.plots.qq_ranef(fit, 'subject')", ValueError, "no grouping factor 'subject'; there is 'Subject'"),
    ("fit.to_latex(foo=1)", TypeError, "no keyword 'foo'", "accepted: label, digits"),
]
MISTAKES = [
    *FORMULAS, *TABLES, *KEYWORDS, *FAMILY, *KEYS, *ELSEWHERE, *TESTS, *PREDICTIONS, *PICTURES
]  # fmt: skip


@pytest.mark.parametrize(("typed", "error", "words"), [(m[0], m[1], m[2:]) for m in MISTAKES], ids=range(len(MISTAKES)))
def test_mistakes(names, typed, error, words):
    if typed.startswith("mm.plots"):
        pytest.importorskip("matplotlib").use("Agg")
    with says(error, *words):
        eval(typed, dict(names))


def test_a_row_with_a_missing_value_has_no_prediction(names):
    new = pd.DataFrame({"Days": [np.nan, 1.0], "Subject": ["308", "308"]})
    assert names["fit"].predict(new).isna().tolist() == [True, False]


def test_hints_cost_a_fit_nothing(names):
    """It is copied and pickled, answers hasattr, and a property that fails says why itself."""
    fit = names["fit"]
    for same in (copy.copy(fit), copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert same.fixef.equals(fit.fixef)
    assert not hasattr(fit, "__array__") and not hasattr(fit, "_repr_png_") and getattr(fit, "to_r", None) is None
    empty = object.__new__(mm.Fit)  # as while it is unpickled
    assert not hasattr(empty, "VarCorr")
    with says(AttributeError, "no attribute 'estimates'"):
        empty.fixef  # noqa: B018


def test_hints_name_what_there_is(names):
    """What is written in the place of another program's name can be evaluated, as far as it is a name."""
    from jaxmm import _elsewhere

    for name, hint in {**_elsewhere.OF_PACKAGE, **_elsewhere.OF_FIT}.items():
        for word in hint.replace(";", " ").replace(",", " ").split():
            if word.startswith(("fit.", "mm.")):
                target = names[word.partition(".")[0]]
                for part in word.partition(".")[2].split("(")[0].split("["):
                    for attribute in part.rstrip("]").split("."):
                        target = getattr(target, attribute) if attribute and part != "group]" else target
        assert name not in dir(mm.Fit) or name in _elsewhere.OF_PACKAGE, name
    assert not set(_elsewhere.OF_PACKAGE) & set(mm.__all__)
