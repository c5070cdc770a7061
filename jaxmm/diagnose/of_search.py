"""How a search ended -> findings: convergence, separation, singular covariances, flat directions, the approximation."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.describe import spell
from jaxmm.diagnose.components import re_pca
from jaxmm.diagnose.finding import CAUTION, NOTE, PROBLEM, Finding
from jaxmm.diagnostics import singular_terms
from jaxmm.optimize import Status

NEARLY_FLAT = 1e-4  # an eigenvalue of the Hessian with a diagonal of ones: parameters that change places
SHARE = 0.1  # of a direction's square: a parameter that has part in it
WIDE_SE = 10.0  # of a coefficient of a column of mean square one, where eta has no unit


def convergence(fit: Any) -> list[Finding]:
    """Whether the search ended at a maximum."""
    e, status = fit.estimates, Status(int(fit.estimates.status))
    if status is Status.CONVERGED:
        return []
    if status is Status.RUNAWAY:
        return [Finding("convergence", PROBLEM, f"the search has no end: {status.message}", "See separation, below.")]
    left = f"; the deviance might still fall by about {float(e.decrement):.2g}" if np.isfinite(e.decrement) else ""
    advice = (
        "Try other starts, fit.multistart(20, key=1); a simpler random part, see fit.re_pca(); "
        "predictors on scales of similar size. Report nothing from this fit."
    )
    return [Finding("convergence", PROBLEM, f"the search did not converge: {status.message}{left}", advice)]


def remarks(fit: Any) -> list[Finding]:
    """What the data and the likelihood say themselves."""
    runaway = int(fit.estimates.status) == Status.RUNAWAY
    out = [Finding("data", NOTE, text) for text in fit.model.design.remarks]
    advice = (
        "Look at a table of the response by the columns named: merge or leave out categories in which it is always the "
        "same; test them by likelihood ratio, mm.anova, which holds where Wald's test does not."
        if runaway
        else ""
    )
    name, severity = ("separation", PROBLEM) if runaway else ("likelihood", CAUTION)
    return out + [Finding(name, severity, text, advice) for text in fit.model.likelihood.remarks(fit)]


def separation(fit: Any) -> list[Finding]:
    """Coefficients without a standard error to speak of, short of running away."""
    if int(fit.estimates.status) == Status.RUNAWAY:
        return []  # told by ``remarks``
    size = np.sqrt(np.mean(fit.model.design.X**2, axis=0))
    wide = fit.bse.to_numpy() * size > WIDE_SE
    names = [f"{name} (SE {se:.3g})" for name, se in fit.bse[wide].items()]
    if not names:
        return []
    advice = (
        "Wald's z and p mean little here: use mm.anova of the models with and without the term, or profile intervals; "
        "look for a category in which the response is nearly always the same."
    )
    return [Finding("separation", CAUTION, f"nearly separated: {', '.join(names)}", advice)]


def singular(fit: Any) -> list[Finding]:
    """Directions of the random effects that have no variance."""
    terms = singular_terms(fit)
    if not terms:
        return []
    pca = re_pca(fit)
    notes = "; ".join(pca.notes)
    text = f"the covariance of {' and '.join(terms)} is singular" + (f" ({notes})" if notes else "")
    advice = "The likelihood is that of the simpler model, and so are the fixed effects: say so, or fit that one. "
    if any(g.rank for g in pca.values() if g.rank < len(g.sd)):
        advice += "Do not interpret the correlations of these effects; without them, (x || g), see what is left."
    return [Finding("singular", CAUTION, text, advice)]


def curvature(fit: Any) -> list[Finding]:
    """Directions in which the likelihood hardly changes, or rises."""
    H = np.asarray(fit.estimates.hessian, float)
    if not H.size:
        return []
    if not np.all(np.isfinite(H)):
        return [Finding("curvature", PROBLEM, "the Hessian of the deviance is not finite", "Try fit.multistart().")]
    scale = np.sqrt(np.maximum(np.abs(np.diag(H)), 1e-300))
    w, Q = np.linalg.eigh(H / (scale[:, None] * scale))
    if w[0] > NEARLY_FLAT:
        return []
    names = [name for name, x in zip(parameter_names(fit), Q[:, 0] ** 2, strict=True) if x > SHARE]
    who = " and ".join(dict.fromkeys(names))
    if w[0] < -NEARLY_FLAT:
        text = f"the end of the search is a saddle: the likelihood rises along {who}"
        return [Finding("curvature", PROBLEM, text, "Try other starts: fit.multistart(20, key=1).")]
    advice = (
        "The data hardly tell these parameters apart: leave one out or fix it; their estimates depend on the start."
    )
    return [Finding("curvature", CAUTION, f"the likelihood is nearly flat in a direction of {who}", advice)]


def approximation(fit: Any) -> list[Finding]:
    """What quadrature would change."""
    told = fit.accuracy()
    return [] if told is None else [Finding("approximation", NOTE, told)]


def parameter_names(fit: Any) -> list[str]:
    """Of the rows of the Hessian: coefficients where they are searched for, terms, the dispersion."""
    model, size = fit.model, len(np.asarray(fit.estimates.hessian))
    terms: list[str] = [""] * model.structure.num_theta
    for (t, _), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        term = model.design.terms[t]
        label = f"({spell(term.effects)} | {model.design.factors[term.factor].name})"
        for k in range(*at.indices(len(terms))):
            terms[k] = label
    if size == len(terms):
        return terms
    beta = list(model.design.coefficients)
    return [*beta, *terms, *["the dispersion"] * (size - len(beta) - len(terms))]
