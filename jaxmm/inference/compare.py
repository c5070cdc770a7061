"""Fits side by side: the likelihood-ratio test of nested ones, information criteria of any.

The statistic is the difference of -2 log-likelihood.  Its distribution is

    "lrt"         chi-squared with as many degrees of freedom as there are more parameters (Wilks 1938); where the
                  larger model has one more variance, a mixture (``inference.boundary``), where that holds
    "bootstrap"   of responses drawn from the smaller fit, both models fitted to each
    "exact"       that of the restricted likelihood ratio of one variance (``inference.exact``)

    AIC = -2ℓ + 2k        AICc = AIC + 2k(k + 1) / (n - k - 1)        BIC = -2ℓ + k log n
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from jaxmm._keywords import known_keywords
from jaxmm._random import as_key
from jaxmm._text import Grid, Printed, frame_parts, p_value
from jaxmm.batch.engine import fit_many
from jaxmm.families import Family
from jaxmm.fit import Fit
from jaxmm.frames import as_backend
from jaxmm.inference import boundary, exact, nesting
from jaxmm.inference.wald import Tested
from jaxmm.sources.draw import Simulated

METHODS = {"lrt": "lrt", "bootstrap": "bootstrap", "boot": "bootstrap", "exact": "exact"}
REPLICATES = 999
CRITERIA = ("aic", "aicc", "bic")
INSTEAD = "mm.compare() orders models by AIC, nested or not"
BY_ML = "refitted by maximum likelihood (instead of REML) before comparing"
_HINTS = {
    "test": "method='lrt', 'bootstrap' or 'exact'",
    "REML": "refit=False compares REML fits of the same X as they are",
    "nsim": "the number of replicates is n=",
    "seed": "key=seed",
    "model_names": "labels=",
    "names": "labels=",
}


def likelihood_ratio(smaller: Any, larger: Any, df: int) -> Tested:
    """The test of ``df`` restrictions from the deviances with and without them, by maximum likelihood; NaN for p where
    there are none.  Arrays of both will do."""
    chisq = np.maximum(0.0, np.subtract(smaller, larger))
    return Tested(chisq, df, chdtrc(df, chisq) if df > 0 else np.full_like(chisq, np.nan))


def aicc(fit: Fit) -> float:
    """Hurvich & Tsai's (1989, Biometrika 76) of a fit; NaN where there are too few rows for it."""
    k, left = fit.df, fit.nobs - fit.df - 1
    return fit.aic + 2 * k * (k + 1) / left if left > 0 else np.nan


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Printed):
    """The table of ``anova`` or ``compare``: ``to_frame()``, with ``notes`` on what was done before comparing.

    ``replicates``: by the label of the larger model, the statistics (n,) of a bootstrap or of the exact test's draws.

    Example:
        >>> smaller = mm.lmm("Reaction ~ 1 + (Days | Subject)", mm.datasets.load("sleepstudy"), reml=False)
        >>> mm.anova(smaller, fit.refit_ml()).to_frame().shape[0]
        2
    """

    table: pd.DataFrame
    formulas: dict[str, str]
    notes: tuple[str, ...]
    replicates: dict[str, np.ndarray] = field(default_factory=dict)

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``table``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.table.copy(), backend, "model")

    def _parts(self) -> list[str | Grid]:
        formulas = [f"{name}: {formula}" for name, formula in self.formulas.items()]
        return [*self.notes, *formulas, *frame_parts(self.table, none="")]


# ---------------------------------------------------------------- the verbs
@known_keywords(_HINTS)
def anova(
    *fits: Fit,
    labels: Sequence[str] | None = None,
    method: str = "lrt",
    refit: bool = True,
    key: Any = None,
    n: int | None = None,
) -> Comparison:
    """Compare nested fits of the same response by likelihood ratio, from the smallest to the largest, each with the one
    before it.

    REML fits are refitted by maximum likelihood first, and the result says so: likelihoods by REML are comparable only
    between models with the same X. Those that have the same are refitted too, as lme4 does by default, except with
    ``method="exact"`` or ``refit=False``.

    Args:
        fits: two or more.
        labels: what to call them, one for each; "fit0", "fit1" .. by default.
        method: where p comes from. "lrt": χ², and where the larger model has one more variance, which the hypothesis
            puts on the boundary of its range, ½χ²(0) + ½χ²(1), or ½χ²(q) + ½χ²(q + 1) for one more effect beside q
            correlated ones, if the factors are nested and the smaller model is not singular; the column ``reference``
            and a note say which. "bootstrap" ("boot"): from ``n`` = 999 responses drawn from the smaller fit with
            ``key``. "exact": of two REML fits that differ by one variance, from ``n`` = 10,000 draws; see
            ``exact_rlrt``, which does without the smaller fit.
        refit: False compares REML fits as they are, which must have the same X: variances alone are tested then.

    Returns:
        ``Comparison`` with columns ``npar``, ``aic``, ``aicc``, ``bic``, ``loglik``, ``deviance``, ``chisq``, ``df``,
        ``p``, ``reference``.

    Of models that are not nested (``inference.nesting``) and of those with as many parameters there is no p, and a note
    says why. Families may differ where they take the same response, as nbinom2 and poisson do; whether such models are
    nested is the user's to know.

    Raises:
        TypeError: something that is not a ``Fit``; draws without a key.
        ValueError: fewer than two fits, or fits to different responses or rows, or of densities beside probabilities;
            an unknown method, labels that do not fit; ``refit=False`` with another X, or REML beside ML.

    Wilks (1938), Ann. Math. Stat. 9; on the boundary Self & Liang (1987), JASA 82, and Stram & Lee (1994), Biometrics
    50.

    Example:
        >>> fit0 = mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))
        >>> tests = mm.anova(fit0, fit, labels=["intercepts", "slopes"])  # print it
    """
    how = _method(method, key, n)
    called, notes = _checked("anova", fits, labels)
    by_ml = refit and how != "exact"
    if not by_ml:
        _check_restricted(fits)
    if by_ml and any(f.reml for f in fits):
        notes.append(BY_ML)
    used = [f.refit_ml() if by_ml else f for f in fits]
    order = sorted(range(len(used)), key=lambda i: (used[i].df, i))
    used, called = [used[i] for i in order], [called[i] for i in order]
    rows, replicates = [_criteria(used[0]) | {"chisq": np.nan, "df": np.nan, "p": np.nan, "reference": ""}], {}
    for before, f, name in zip(used, used[1:], called[1:], strict=False):
        found = None if how == "exact" else _untested(before, f)
        found = found or {"lrt": _by_limit, "bootstrap": _by_bootstrap, "exact": _by_draws}[how](before, f, n, key)
        rows.append(_criteria(f) | found.row())
        notes += [f"{name}: {note}" for note in found.notes]
        if found.replicates is not None:
            replicates[name] = found.replicates
    table = pd.DataFrame(rows, index=called)
    return Comparison(table, _formulas(used, called), tuple(notes + _unconverged(used, called)), replicates)


@known_keywords(_HINTS)
def compare(*fits: Fit, labels: Sequence[str] | None = None, criterion: str = "aic") -> Comparison:
    """Information criteria of fits of the same response, nested or not, the best first.

    REML fits are refitted by maximum likelihood first, and the result says so.

    Args:
        fits: two or more.
        labels: what to call them, one for each; "fit0", "fit1" .. by default.
        criterion: "aic", "aicc" or "bic": what ``delta``, the difference from the least, and ``weight``,
            exp(-delta / 2) over the sum of these (Burnham & Anderson 2002), are of.

    Returns:
        ``Comparison`` with columns ``npar``, ``aic``, ``aicc``, ``bic``, ``loglik``, ``deviance``, ``delta``,
        ``weight``.

    Raises:
        TypeError: something that is not a ``Fit``.
        ValueError: as ``anova``; another criterion.

    Example:
        >>> fit0 = mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))
        >>> ranks = mm.compare(fit0, fit, labels=["intercepts", "slopes"], criterion="aicc")  # print it
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(map(repr, CRITERIA))}, not {criterion!r}")
    called, notes = _checked("compare", fits, labels)
    if any(f.reml for f in fits):
        notes.append(BY_ML)
    used = [f.refit_ml() for f in fits]
    table = pd.DataFrame([_criteria(f) for f in used], index=called)
    table["delta"] = table[criterion] - table[criterion].min()
    table["weight"] = np.exp(-table["delta"] / 2) / np.exp(-table["delta"] / 2).sum()
    table = table.sort_values("delta", kind="stable")
    return Comparison(table, _formulas(used, called), tuple(notes + _unconverged(used, called)))


def _criteria(f: Fit) -> dict[str, Any]:
    return {"npar": f.df, "aic": f.aic, "aicc": aicc(f), "bic": f.bic, "loglik": f.loglik, "deviance": f.deviance}


def _errors(fit: Fit) -> str:
    """What a formula says nothing of."""
    own = fit.model.design.residual
    if own is None:
        return ""
    parts = [f"residual {own.text}"] if own.subject is not None else []
    parts += [f"dispersion {own.dispersion.formula}"] if own.dispersion is not None else []
    return "".join(f"; {part}" for part in parts)


def _formulas(fits: Sequence[Fit], called: Sequence[str]) -> dict[str, str]:
    """By label; with the family where they differ in it."""
    families = [f", {f.family.name} ({f.family.link.name})" for f in fits]
    one = len(set(families)) == 1
    named = zip(called, fits, families, strict=True)
    return {name: f.formula + _errors(f) + ("" if one else family) for name, f, family in named}


def _unconverged(fits: Sequence[Fit], called: Sequence[str]) -> list[str]:
    names = [name for name, f in zip(called, fits, strict=True) if not f.converged]
    return [f"not converged: {', '.join(names)}; the comparison may be wrong"] if names else []


# ---------------------------------------------------------------- the distributions
@dataclass(frozen=True)
class _Found:
    """One step of an ``anova``."""

    test: Tested
    reference: str
    notes: tuple[str, ...] = ()
    replicates: np.ndarray | None = None

    def row(self) -> dict[str, Any]:
        own = {"chisq": float(self.test.statistic), "df": self.test.df, "p": float(self.test.p)}
        return own | {"reference": self.reference}


def _untested(smaller: Fit, larger: Fit) -> _Found | None:
    """Where no likelihood ratio tests the one against the other, with the reason; None where one does."""
    df = larger.df - smaller.df
    none = Tested(np.asarray(np.nan), df, np.asarray(np.nan))
    if why := nesting.obstacle(smaller.model, larger.model):
        return _Found(none, "", (f"not nested, {why}: no test; {INSTEAD}",))
    test = likelihood_ratio(smaller.deviance, larger.deviance, df)
    if df <= 0:
        note = f"no more parameters than the model before it, so that there is nothing to test; {INSTEAD}"
        return _Found(test, "", (note,) if smaller.formula != larger.formula else ())
    if (worse := larger.deviance - smaller.deviance) > 1e-4 + 1e-7 * abs(smaller.deviance):
        reason = "the models are not nested" if nesting.doubt(smaller.model, larger.model) else "its search ended early"
        note = f"deviance higher by {worse:.4g} with more parameters: {reason}, and there is no test; {INSTEAD}"
        return _Found(none, "", (note,))
    return None


def _doubts(smaller: Fit, larger: Fit) -> tuple[str, ...]:
    doubt = nesting.doubt(smaller.model, larger.model)
    return (f"whether the models are nested is not known ({doubt}): if not, {INSTEAD}",) if doubt else ()


def _by_limit(smaller: Fit, larger: Fit, n: Any, key: Any) -> _Found:
    """χ², or the mixture where it holds."""
    test = likelihood_ratio(smaller.deviance, larger.deviance, larger.df - smaller.df)
    plain = f"χ²({test.df})"
    mixed = boundary.mixture(smaller, larger)
    if isinstance(mixed, boundary.Mixture):
        name, levels = mixed.units
        note = (
            f"p from {mixed}, the limit of many levels of {name} ({levels} here), since a variance of zero lies on the "
            f"boundary of its range (Self & Liang 1987); from {plain} it would be {p_value(float(test.p))}"
        )
        return _Found(test._replace(p=mixed.p(test.statistic)), str(mixed), (note,))
    if mixed is not None or boundary.differs_in_effects(smaller.model, larger.model):
        why = f" ({mixed})" if mixed else ""
        note = f"p from {plain} is conservative where a variance is zero under the hypothesis{why}; method='bootstrap'"
        return _Found(test, plain, (note, *_doubts(smaller, larger)))
    return _Found(test, plain, _doubts(smaller, larger))


def _by_bootstrap(smaller: Fit, larger: Fit, n: int | None, key: Any) -> _Found:
    """p = (1 + replicates that reach the statistic) / (1 + replicates) (Davison & Hinkley 1997, section 4.2)."""
    test = likelihood_ratio(smaller.deviance, larger.deviance, larger.df - smaller.df)
    source = Simulated(smaller.model, smaller, REPLICATES if n is None else n, key)
    null, full = (fit_many(f.model, source, start=f, progress=False) for f in (smaller, larger))
    both = null.converged & full.converged
    statistics = np.where(both, likelihood_ratio(-2 * null.loglik, -2 * full.loglik, 1).statistic, np.nan)
    used = int(both.sum())
    p = (1 + int(np.sum(statistics[both] >= test.statistic))) / (1 + used) if used else np.nan
    lost = len(both) - used
    notes = (f"{lost} of {len(both)} replicates failed and are left out",) if lost else ()
    notes += _doubts(smaller, larger)
    return _Found(test._replace(p=np.asarray(p)), f"bootstrap, {used} replicates", notes, statistics)


def _by_draws(smaller: Fit, larger: Fit, n: int | None, key: Any) -> _Found:
    """Of one variance, by REML."""
    n = exact.DRAWS if n is None else n
    for f in (smaller, larger):
        exact.check(f, n)
    one = boundary.added(smaller.model, larger.model)
    if one is None or one.before:
        raise ValueError(
            "method='exact' is of models with the same X that differ by one uncorrelated term of one variance: use "
            "method='bootstrap'"
        )
    found = exact.tested(larger, one.term, smaller.deviance - larger.deviance, n, key)
    test = Tested(np.asarray(found.statistic), 1, np.asarray(found.p))
    return _Found(test, f"exact, {found.n} draws", found.notes)


# ---------------------------------------------------------------- what can be compared
def _method(method: str, key: Any, n: Any) -> str:
    """Raises ValueError and TypeError, with what would be accepted."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be 'lrt', 'bootstrap' or 'exact', not {method!r}")
    how = METHODS[method]
    if how == "lrt":
        if key is not None or n is not None:
            raise ValueError("key= and n= are for method='bootstrap' and 'exact': method='lrt' draws nothing")
        return how
    if key is None:
        raise TypeError(f"method={method!r} needs a key, such as key=1 or key=jax.random.key(1)")
    as_key(key)
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1):
        raise ValueError(f"n must be a positive number of replicates, not {n!r}")
    return how


def _checked(verb: str, fits: Sequence[Any], labels: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Labels, and notes on the likelihoods.

    Raises:
        TypeError: something that is not a fit.
        ValueError: fits that cannot be compared, or labels that do not fit.
    """
    if len(fits) < 2:
        raise ValueError(f"{verb} compares two fits or more: mm.{verb}(fit0, fit1)")
    for f in fits:
        if not hasattr(f, "estimates"):
            raise TypeError(f"{verb} compares jaxmm fits, not {type(f).__name__}")
    for f in fits[1:]:
        _check_data(fits[0], f)
        _check_families(fits[0], f)
    called = [f"fit{i}" for i in range(len(fits))]
    if labels is not None:
        called = [labels] if isinstance(labels, str) else list(map(str, labels))
        if len(called) != len(fits) or len(set(called)) != len(called):
            raise ValueError(f"labels must be {len(fits)} different texts, one for each fit, not {labels!r}")
    nodes = sorted({f.n_agq for f in fits})
    notes = []
    if len(nodes) > 1:
        notes.append(
            f"likelihoods by {' and '.join(map(str, nodes))} quadrature nodes (1 is Laplace's method): part of the "
            "difference is that of the methods; fit all models with one n_agq"
        )
    return called, notes


def _check_data(a: Fit, b: Fit) -> None:
    """Raises ValueError where two fits are not of the same rows, responses and weights."""
    first, d = a.model.design, b.model.design
    if len(d.y) == len(first.y) and not np.array_equal(d.y, first.y):
        raise ValueError(
            f"the fits are to different responses, or to the same rows in another order ({first.response!r} and "
            f"{d.response!r}): fit all models to one table"
        )
    if len(d.y) != len(first.y):
        raise ValueError(
            f"the fits are to different data: {len(first.y)} rows of {first.response!r} and {len(d.y)} of "
            f"{d.response!r}; drop the rows with missing values before fitting, so that all models use the same"
        )
    if not _same(d.weights, first.weights):
        raise ValueError("the fits have different weights: their likelihoods cannot be compared")


def _check_restricted(fits: Sequence[Fit]) -> None:
    """Raises ValueError where restricted likelihoods are not of the same contrasts of the response."""
    if len({f.reml for f in fits}) > 1:
        raise ValueError("some fits are by REML and some by ML: fit all in one way, or leave refit=True")
    if fits[0].reml and not all(boundary.same_span(fits[0].model.design.X, f.model.design.X) for f in fits[1:]):
        raise ValueError(
            "restricted likelihoods of models with different fixed effects cannot be compared: leave refit=True, by "
            "maximum likelihood"
        )


def _check_families(a: Fit, b: Fit) -> None:
    """Raises ValueError where two likelihoods are not of the same data, or not of the same kind."""
    ours, theirs = a.model.design.trials, b.model.design.trials
    if not _same(ours, theirs):
        if ours is not None and theirs is not None:
            raise ValueError("the fits have different numbers of trials: their likelihoods cannot be compared")
        raise ValueError(
            f"the fits are to different responses: {a.family.name} and {b.family.name}, one of which counts successes "
            "among trials; their likelihoods cannot be compared"
        )
    if _is_discrete(a.family) != _is_discrete(b.family):
        raise ValueError(
            f"{a.family.name} and {b.family.name}: a likelihood of probabilities and one of densities cannot be "
            "compared"
        )


def _is_discrete(family: Family) -> bool:
    return not np.all(family.valid(np.array([0.5])))


def _same(a, b) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
