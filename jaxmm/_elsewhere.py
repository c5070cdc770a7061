"""A name that is not there, as other programs spell it -> an error with what to write here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# of the package: names of lme4, glmmTMB, statsmodels, emmeans
OF_PACKAGE = {
    "lmer": "mm.lmm(formula, data)",
    "glmer": "mm.glmm(formula, data, family)",
    "glmmTMB": "mm.glmm(formula, data, family), with dispersion= and zero_inflation=",
    "lme": "mm.lmm(formula, data)",
    "mixedlm": "mm.lmm('y ~ x + (1 | group)', data)",
    "MixedLM": "mm.lmm('y ~ x + (1 | group)', data)",
    "BinomialBayesMixedGLM": "mm.glmm(formula, data, 'binomial')",
    "read_csv": "pandas.read_csv(path), whose table is what a fit takes",
    "bootMer": "fit.bootstrap(n, key=1)",
    "powerSim": "mm.power(fit, key=1, test='x')",
    "powerCurve": "mm.power_curve(fit, along={'subject': [20, 40]}, key=1)",
    "binomial": "the name of the family is a text: mm.glmm(formula, data, 'binomial')",
    "poisson": "the name of the family is a text: mm.glmm(formula, data, 'poisson')",
    "lmerControl": "mm.Control(max_iterations=...)",
    "glmerControl": "mm.Control(max_iterations=...)",
    "load_dataset": "mm.datasets.load('sleepstudy')",
    "DHARMa": "fit.simulated_residuals(key=1)",
}
# of a fit: what other programs call its verbs, or have as functions
OF_FIT = {
    "VarCorr": "fit.varcorr()",
    "cov_re": "fit.varcorr().cov[group]",
    "vcomp": "fit.varcorr().sd",
    "random_effects": "fit.ranef()[group]",
    "random_effects_cov": "fit.ranef().cond_cov[group]",
    "fixed_effects": "fit.fixef",
    "coefficients": "fit.fixef; with the effects of each level fit.coef()[group]",
    "coefs": "fit.fixef; with the effects of each level fit.coef()[group]",
    "pvalue": "fit.pvalues",
    "std_errors": "fit.bse",
    "stderr": "fit.bse",
    "fittedvalues": "fit.fitted()",
    "resid": "fit.residuals()",
    "logLik": "fit.loglik",
    "AIC": "fit.aic",
    "BIC": "fit.bic",
    "isSingular": "fit.is_singular",
    "ngrps": "fit.n_groups",
    "rsquared": "fit.r2()",
    "lsmeans": "fit.emmeans(specs)",
    "pairs": "fit.emmeans(specs).contrasts('pairwise')",
    "contrasts": "fit.emmeans(specs).contrasts('pairwise')",
    "t_test": "fit.test('x = 0')",
    "wald_test": "fit.test('x = 0')",
    "rePCA": "fit.re_pca()",
    "allFit": "fit.multistart(20, key=1)",
    "plot": "fit.plot_residuals(), and the pictures of mm.plots, such as mm.plots.caterpillar(fit)",
    "to_word": "fit.to_html(), saved with encoding='utf-8-sig', which Word opens",
    "to_docx": "fit.to_html(), saved with encoding='utf-8-sig', which Word opens",
    "to_csv": "fit.tidy().to_csv(name)",
    "to_excel": "fit.tidy().to_excel(name)",
    "save": "pickle.dump(fit, file), which keeps all of it",
    "update": "mm.lmm or mm.glmm with the other formula; fit.refit(y) for another response",
    "drop1": "mm.anova(without, fit) for each term, or fit.anova()",
    "score": "jaxmm.sklearn.MixedRegressor has it",
}  # fmt: skip
OF_PACKAGE |= {name: OF_FIT[name] for name in ("VarCorr", "pairs", "allFit", "rePCA", "isSingular", "drop1")}
OF_PACKAGE |= {
    name: f"it is a verb of a fit, fit.{name}()"
    for name in ("ranef", "coef", "emmeans", "predict", "simulate", "residuals", "fitted", "confint", "summary", "vcov")
}
OF_PACKAGE |= {name: f"it is a property of a fit, fit.{name.lower()}" for name in ("fixef", "AIC", "BIC", "sigma")}


def missing(owner: str, name: str, known: dict[str, str], names: Sequence[str]) -> AttributeError:
    """The error for a ``name`` that ``owner`` has not, with the spelling here or the closest of its ``names``."""
    hint = ""
    if name in known:
        hint = f": write {known[name]}" if known[name].startswith(("mm.", "fit.")) else f": {known[name]}"
    elif not name.startswith("_") and (close := difflib.get_close_matches(name, names, 1, 0.7)):
        hint = f"; did you mean {close[0]!r}?"
    return AttributeError(f"{owner} has no attribute {name!r}{hint}")
