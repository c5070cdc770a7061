"""study: a model and a truth -> what its estimates, intervals and tests are worth, by simulation.

    responses from the truth --fit--> estimates, p-values --compare with the truth--> recovery, coverage, error rates

Replicate k has one response, whatever is fitted to it: null models are fitted to the responses of the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import numpy as np

from jaxmm._keywords import STUDYING, known_keywords
from jaxmm.batch.engine import fit_many
from jaxmm.batch.setup import has_program
from jaxmm.design import DataError
from jaxmm.design.columns import Levels
from jaxmm.inference.wald import check_level
from jaxmm.model import Model
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import blank, names_of
from jaxmm.results.store import as_folder
from jaxmm.sources.draw import Simulated
from jaxmm.sources.mechanism import Mechanism
from jaxmm.sources.responses import Responses, unfitted
from jaxmm.sources.truth import Truth, as_truth
from jaxmm.studies.hypotheses import Columns, Fits, LikelihoodRatio, Test, WaldZ, columns_of, source_for, without
from jaxmm.studies.named_tests import as_tests
from jaxmm.studies.study_result import StudyResult

FIRST = 8  # responses that are looked at before a model of another family is fitted to all
Statistic = Callable[[FitBatch], Any]


@known_keywords(STUDYING)
def study(
    model: Any,
    truth: Any,
    n: int,
    *,
    key: Any,
    tests: Sequence[Test | str] | None = None,
    of: Any = None,
    lrt: Any = (),
    mechanism: Mechanism | None = None,
    fit: Any = None,
    statistics: Mapping[str, Statistic] | None = None,
    level: float = 0.95,
    alpha: float = 0.05,
    batch: int | None = None,
    out: Any = None,
    shard: Any = None,
    progress: bool = True,
    control: Any = None,
) -> StudyResult:
    """Simulate ``n`` responses from a truth, fit the model to each, and compare.

    Args:
        model: a ``Model`` or a ``Fit``.
        truth: a ``Fit``, or ``{"fixef", "sd", "corr", "sigma" | "dispersion"}``; None for a ``Fit`` means itself.
        n: responses, whose random effects are drawn anew each time; the k-th depends on ``key`` and k alone.
        key: a seed, such as 1, or a key, such as ``jax.random.key(1)``.
        tests: names, "z", "satterthwaite", "kenward-roger", "kenward-roger-linear" (of correlated errors whose
            covariance is not linear, such as ar1), "lrt", "bootstrap", "permutation", or objects with the three members
            of ``hypotheses.Test``, such as ``mm.BootstrapLRT(("x",), n=199)``; Wald's z of every coefficient where
            None. What each costs: z and Satterthwaite nothing; Kenward-Roger and permutation some
            milliseconds a replicate; lrt a fit by ML and one of each null model; bootstrap 198 fits a replicate.
        of: what named tests are of: a coefficient, a term of the formula (its columns together, but by z), or a list of
            these; every coefficient but the intercept where None.
        lrt: coefficients to test by likelihood ratio as well: a column, a term of the formula (all its columns), or a
            list of these, each tested by itself; a tuple in the list is tested jointly. Both fits are by maximum
            likelihood; a REML model is fitted by ML too for that.
        mechanism: a ``Mechanism``: other shapes of effects and errors, covariates drawn anew, dropout, missing rows.
        fit: another ``Model`` of the same rows, which is fitted in the place of ``model``: without a slope, of another
            family. Its coefficients have a truth where ``model`` has them by the same name, on the same link; all else
            of it is reported without.
        statistics: name -> function of a ``FitBatch`` that returns (n,) numbers, whose recovery is wanted too. Its
            truth is what the function makes of a batch of one, the truth itself (which has no standard errors).
        level: of the Wald intervals of β and of the intervals of the rates.
        alpha: a test rejects where p <= alpha.
        batch, progress, control: as in ``fit_many``.
        out: a folder, with a folder in it for each model that is fitted.
        shard: "3/16" or (3, 16): the third of sixteen shares of the replicates alone, as in ``fit_many``; what is
            returned is about that share, and the same call without ``shard``, once all have ended, is about all.

    Returns:
        ``StudyResult``: ``recovery``, ``tests``, ``rates``; print it.

    Raises:
        TypeError: neither a model nor a fit, no key.
        ValueError: an unknown coefficient or test, an impossible truth, level or number of replicates; a test or a
            mechanism that does not suit the model; a statistic with the name of a parameter; a model ``fit`` of a
            family that has no such responses (where it has some, the others have the status INVALID).
        DataError: a model ``fit`` of other rows, or of the same in another order; columns that there are not.

    Morris, White & Crowther (2019), Stat. Med. 38.

    Example:
        >>> found = mm.study(fit, None, 4, key=1, progress=False)
        >>> found.recovery.index[:2].tolist()
        ['(Intercept)', 'Days']
    """
    given, model = model, unfitted(model)
    check_settings(n, level, alpha)
    true = truth_of(given, model, truth)
    fitted = model if fit is None else _of_same_rows(unfitted(fit), model)
    chosen: list[Test] = [WaldZ()] if tests is None else as_tests(fitted, tests, of)
    if of is not None and not any(isinstance(t, str) for t in tests or ()):
        raise ValueError("of= is for tests by name, such as tests=['z', 'kenward-roger']")
    chosen += [LikelihoodRatio(columns) for columns in _hypotheses(fitted, lrt)]
    options = {"batch": batch, "shard": shard, "progress": progress, "control": control}
    _check_statistics(statistics, fitted)
    run = Run(Simulated(model, true, n, key, mechanism=mechanism), out, options, key)
    if fit is None:
        return examine(model, true, run, chosen, level, alpha, statistics)
    run.source.trusted = repr(fitted.likelihood.family) == repr(model.likelihood.family)
    _check_support(fitted, model, run.source)
    known = _shared_truth(fitted, model, truth_as_batch(model, true))
    return examine(fitted, None, run, chosen, level, alpha, statistics, known)


def _of_same_rows(fitted: Model, model: Model) -> Model:
    """``fitted``, if its rows are those of ``model``.

    Raises:
        DataError: other rows.
    """
    theirs, ours = (d.index[d.kept] for d in (fitted.design, model.design))
    if len(theirs) != len(ours) or not theirs.equals(ours):
        raise DataError(
            f"fit= is a model of {len(theirs)} rows, and the responses are of the {len(ours)} rows of the model: make "
            "both of one table"
        )
    there = _columns_of(model.design)
    for name, mine in _columns_of(fitted.design).items():
        if name in there and not np.array_equal(mine, there[name]):
            row = int(np.argmax(mine != there[name])) if len(mine) == len(there[name]) else 0
            raise DataError(
                f"fit= is a model of rows in another order, or of other data: {name!r} is {mine[row]} in its row {row} "
                f"(from 0), and {there[name][row]} in that of the model; make both of one table"
            )
    return fitted


def _columns_of(design: Any) -> dict[str, np.ndarray]:
    """Name -> what a row has of a factor or of a variable of the formula, as text or numbers; of a model from arrays,
    of the columns of X."""
    found: dict[str, Any] = {f.name: np.asarray(f.levels)[f.codes].astype(str) for f in design.factors}
    held = dict(zip(design.columns, design.X.T, strict=True)) if design.spec is None else design.spec.held
    for name, value in held.items():
        if isinstance(value, Levels):
            found[name] = np.append(np.asarray(value.labels, object), "")[value.codes].astype(str)
        elif np.ndim(value) == 1:
            found[name] = np.asarray(value)
    return {name: x for name, x in found.items() if len(x) == len(design.y)}


def _check_support(fitted: Model, model: Model, source: Responses) -> None:
    """Raises ValueError where none of the first responses can be had by the family of the model that is fitted."""
    family = fitted.likelihood.family
    if source.trusted:
        return
    y = np.asarray(source.block(0, min(int(source.n or 1), FIRST)).y)
    trials = fitted.design.trials
    good = np.asarray(family.valid(y)) & (y <= (np.inf if trials is None else trials))
    if not good.all(axis=1).any():
        row = int(np.argmin(good[0]))
        raise ValueError(
            f"fit= is a {family.name} model, and the responses drawn from {model.design.formula!r} are not its kind, "
            f"such as {y[0, row]:g} in row {row}: simulate from a model of such responses, or fit another family"
        )


def _check_statistics(statistics: Any, model: Model) -> None:
    """Raises ValueError for a statistic that is called as a parameter of the model is, TypeError for no functions."""
    if statistics is None:
        return
    if not isinstance(statistics, Mapping):
        raise TypeError(f"statistics must be name -> function of a FitBatch, not {statistics!r}")
    names = names_of(model)
    taken = FitBatch(names, blank(names, 1)).estimates()
    for name, function in statistics.items():
        if name in taken:
            raise ValueError(
                f"statistics has {name!r}, which is what a parameter of the model is called: give it another name; "
                f"taken are {', '.join(map(repr, taken))}"
            )
        if not callable(function):
            raise TypeError(f"statistics[{name!r}] must be a function of a FitBatch, not {function!r}")


def _shared_truth(fitted: Model, model: Model, truth: FitBatch) -> FitBatch:
    """What is true of another model that is fitted: the coefficients that both have, on one link; NaN for the rest."""
    names, known = names_of(fitted), {}
    if repr(fitted.likelihood.family.link) == repr(model.likelihood.family.link):
        known = dict(zip(truth.names.fixef, truth.fixef[0], strict=True))
    values = np.array([known.get(name, np.nan) for name in names.fixef])
    empty = FitBatch(names, blank(names, 1)).with_columns(fixef=values[None])
    return empty.with_columns(sigma=np.full(1, np.nan), dispersion=np.full(1, np.nan))


def check_settings(n: Any, level: float, alpha: float) -> None:
    """Raises ValueError, with what would be accepted."""
    check_level(level)
    check_level(alpha, "alpha", "0.05 for tests at 5 %")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive number of replicates, not {n!r}")


def truth_of(given: Any, model: Model, truth: Any) -> Truth:
    """``truth``, or where it is None the parameters of ``given``, if that is a fit.

    Raises:
        ValueError: neither a truth nor a fit; what ``as_truth`` raises.
    """
    if truth is None and given is model:
        raise ValueError("an unfitted model has no parameters: give truth=, a Fit or {'fixef', 'sd', 'sigma'}")
    return as_truth(model, given if truth is None else truth)


@dataclass
class Run:
    """Fits of several models to one source of responses, each with a folder of its own in ``out``."""

    source: Responses
    out: Any
    options: dict[str, Any] = field(default_factory=dict)
    key: Any = None

    def fit(self, model: Model, start: Truth | None, folder: str, keep: tuple[str, ...] = ()) -> FitBatch:
        out = None if self.out is None else as_folder(self.out) / folder
        return fit_many(model, source_for(self.source, model), start=start, out=out, keep=keep, **self.options)


def examine(
    model: Model,
    true: Truth | None,
    run: Run,
    chosen: Sequence[Test],
    level: float,
    alpha: float,
    statistics: Mapping[str, Statistic] | None = None,
    known: FitBatch | None = None,
) -> StudyResult:
    """Fit the model, and the null models that the tests need, to the responses of ``run``, drawn from ``true``, its
    parameters; None where they are drawn from another model, and ``known`` is what is true of this one.

    Raises:
        ValueError: a linear model of responses without residuals, which have no likelihood.
    """
    for test in chosen:
        if hasattr(test, "check"):
            test.check(model)  # pyright: ignore[reportAttributeAccessIssue]
    if true is not None and model.likelihood.precisions and true.sigma == 0:
        raise ValueError(
            "truth has sigma = 0: what is drawn has no residuals to fit; give a residual standard deviation above 0"
        )
    # where lanes are searched one after another nothing is kept of them, and the tests look at each again
    kept = chosen if has_program(model, source_for(run.source, model).varies) else ()
    keep = tuple(dict.fromkeys(name for t in kept for name in getattr(t, "keep", ())))
    full = run.fit(model, true, "full", keep)
    by_ml, nulls = None, {}
    if any(t.without for t in chosen):
        ml = model.by_ml() if model.reml else model
        by_ml = run.fit(ml, true, "full-ml") if model.reml else full
        for columns in dict.fromkeys(t.without for t in chosen if t.without):
            reduced = None if true is None else _reduced(true, model, columns)
            nulls[columns] = run.fit(without(ml, columns), reduced, "without-" + quote(" ".join(columns), safe=""))
    fits = Fits(model, full, by_ml, nulls, run.source, run.key, run.options)
    return StudyResult(
        formula=model.design.formula,
        kind=model.likelihood.kind,
        nobs=len(model.design.y),
        truth=truth_as_batch(model, true) if known is None else known,  # pyright: ignore[reportArgumentType]
        fits=fits,
        p_values={(t.name, columns): p for t in chosen for columns, p in t.p_values(fits).items()},
        statistics=dict(statistics or {}),
        level=float(level),
        alpha=float(alpha),
        notes=tuple(filter(None, (t.note(model) for t in chosen if hasattr(t, "note")))),  # pyright: ignore
    )


def _hypotheses(model: Model, lrt: Any) -> list[Columns]:
    asked = [lrt] if isinstance(lrt, str) else list(lrt)
    return list(dict.fromkeys(columns_of(model.design, one) for one in asked))


def _reduced(truth: Truth, model: Model, columns: Columns) -> Truth:
    """The truth of the columns that are left: where the search of a null model starts."""
    left = [c not in columns for c in model.design.coefficients]  # names of the mean's columns alone
    return replace(truth, beta=np.asarray(truth.beta)[left])


def truth_as_batch(model: Model, truth: Truth) -> FitBatch:
    """The truth as a batch of one, so that whatever is computed from fits can be computed from it: no standard errors
    (NaN), no likelihood (NaN)."""
    names, d = names_of(model), model.design
    cov, sd, p = {}, {}, len(d.columns)
    for f, factor in enumerate(d.factors):
        effects = [e for t in d.terms if t.factor == f for e in t.effects]
        D = np.asarray(truth.lams[f]) @ np.asarray(truth.lams[f]).T
        cov |= {(factor.name, a, b): D[i, j] for i, a in enumerate(effects) for j, b in enumerate(effects)}
        sd |= {(factor.name, e): np.sqrt(D[i, i]) for i, e in enumerate(effects)}
    with np.errstate(invalid="ignore", divide="ignore"):
        corr = [np.divide(cov[g, a, b], sd[g, a] * sd[g, b]) for g, a, b in names.corr]
    known = {
        "fixef": np.asarray(truth.beta, float)[:p],
        **({"family_params": np.concatenate([*map(np.ravel, truth.extras)])} if names.family_params else {}),
        **({"further": np.asarray(truth.beta, float)[p:]} if names.further else {}),
        "theta": np.asarray(truth.theta(model), float),
        "varcorr_sd": np.array([sd[s] for s in names.sd], float),
        "varcorr_corr": np.array(corr, float),
        "sigma": truth.sigma,
        **({"dispersion": truth.phi} if names.has_phi else {}),
    }
    return FitBatch(names, blank(names, 1)).with_columns(**{name: np.asarray(x)[None] for name, x in known.items()})
