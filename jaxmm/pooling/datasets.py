"""What pooling reads of the fits of m imputations: a list of fits, or a batch -> arrays with the imputations first.

Fits that failed or did not converge are left out, and ``DataSets.kept`` says which are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.fit import Fit
from jaxmm.results.kept import unpacked
from jaxmm.results.result import FitBatch
from jaxmm.sources.responses import Varying, as_responses, unfitted
from jaxmm.tables import Block, VarCorr

ONE_MODEL = "the fits to pool must be of one model: {} differ, {!r} and {!r}"


class Named(NamedTuple):
    """The coefficients of a batch whose model is not known, as ``restrictions`` asks a design for them."""

    columns: tuple[str, ...]
    coefficients: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    @property
    def fixed_terms(self) -> Mapping[str, tuple[str, ...]]:
        return {}


class Data(NamedTuple):
    """One imputation as a likelihood needs it: the model, the arrays of its own data, and the nodes per effect."""

    model: Any
    arrays: Any
    n_agq: int


@dataclass(frozen=True, eq=False)
class DataSets:
    """The fits of m imputations.

    ``Q`` (m, p) estimates of all coefficients, called ``design.coefficients``, and ``U`` (m, p, p) their covariances,
    NaN where a batch has standard errors alone; ``varcorrs`` m of them; ``dispersion`` (m,) and ``family_params`` (m,
    k), by the names of ``params``; ``deviance`` (m,) by the criterion ``reml``, with ``num_params``; ``residual_df`` of
    complete data, NaN where it is not known; ``kept`` which of the ``given`` fits these are.  ``fits`` or ``lanes``:
    where the data are.
    """

    what: str
    design: Any
    Q: np.ndarray
    U: np.ndarray
    varcorrs: list[VarCorr]
    dispersion: np.ndarray | None
    params: tuple[str, ...]
    family_params: np.ndarray
    deviance: np.ndarray
    reml: bool
    num_params: int
    residual_df: float
    statistic: str
    kept: np.ndarray
    given: int
    fits: tuple[Fit, ...] = ()
    lanes: Callable[[int], Data] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.kept)

    def take(self, index: np.ndarray) -> DataSets:
        """Some of them."""
        rows = {name: getattr(self, name)[index] for name in ("Q", "U", "family_params", "deviance", "kept")}
        return replace(
            self,
            **rows,
            varcorrs=[self.varcorrs[k] for k in index],
            dispersion=None if self.dispersion is None else self.dispersion[index],
            fits=tuple(self.fits[k] for k in index) if self.fits else (),
        )

    def by_ml(self) -> DataSets:
        """By maximum likelihood: a list of fits by REML is fitted again.

        Raises:
            ValueError: a batch by REML.
        """
        if not self.reml:
            return self
        if not self.fits:
            raise ValueError(
                "the batch is by REML, whose likelihoods cannot be compared between models with other fixed effects: "
                "fit it by maximum likelihood, fit_many(model.by_ml(), ...), or pool a list of fits"
            )
        return of_fits([f.refit_ml() for f in self.fits], self.kept, self.given)

    def data(self, k: int) -> Data:
        """Of the k-th that is kept.

        Raises:
            ValueError: a batch that was pooled without its model and responses.
        """
        if self.fits:
            model = self.fits[k].model
            return Data(model, model.arrays, self.fits[k].n_agq)
        if self.lanes is None:
            raise ValueError(
                "method='D3' needs the likelihood of each data set at the pooled estimates, and a batch has no data: "
                "pool(batch, model=model, Y=Y) with what fit_many was given, or a list of fits; or method='D2'"
            )
        return self.lanes(int(self.kept[k]))

    def varcorr(self) -> VarCorr:
        """The means of the covariances, and of σ²."""
        first = self.varcorrs[0]
        blocks = [
            Block(b.group, b.effects, np.mean([v.blocks[k].cov for v in self.varcorrs], axis=0), b.estimated)
            for k, b in enumerate(first.blocks)
        ]
        sigma = None if first.sigma is None else float(np.sqrt(np.mean([(v.sigma or 0.0) ** 2 for v in self.varcorrs])))
        return VarCorr(blocks, sigma)


def of_fits(fits: list[Fit], kept: np.ndarray | None = None, given: int | None = None) -> DataSets:
    """Those of a list of fits; without the ones that did not converge, unless ``kept`` says which these are.

    Raises:
        TypeError: something that is no fit.
        ValueError: fits of different models, or fewer than two that converged.
    """
    for f in fits:
        if not isinstance(f, Fit):
            raise TypeError(
                f"pool takes fits, or a FitBatch, not a list with a {type(f).__name__}; of imputed tables: "
                "pool(mm.fit_many(tables, formula=..., keep='vcov'))"
            )
    if not fits:
        raise ValueError("there is nothing to pool: give the fits of two imputations or more")
    for f in fits[1:]:
        _check_alike(fits[0], f)
    if kept is None:
        kept, given = np.flatnonzero([f.converged for f in fits]), len(fits)
        fits = [fits[k] for k in kept]
    _check_enough(len(fits), int(given or 0))
    first = fits[0]
    linear = first.model.likelihood.statistic == "t"
    params = tuple(first.family_params)
    return DataSets(
        what=first.formula,
        design=first.model.design,
        Q=np.stack([np.asarray(f.estimates.beta, float) for f in fits]),
        U=np.stack([np.asarray(f.estimates.vcov, float) for f in fits]),
        varcorrs=[f.varcorr() for f in fits],
        dispersion=None if first.dispersion is None else np.array([f.dispersion for f in fits], float),
        params=params,
        family_params=np.array([[f.family_params[p] for p in params] for f in fits], float).reshape(len(fits), -1),
        deviance=np.array([f.deviance for f in fits]),
        reml=first.reml,
        num_params=first.df,
        residual_df=float(min(f.nobs for f in fits) - len(first.fixef)) if linear else np.inf,
        statistic=first.model.likelihood.statistic,
        kept=np.asarray(kept),
        given=int(given or len(fits)),
        fits=tuple(fits),
    )


def of_batch(batch: FitBatch, model: Any = None, Y: Any = None) -> DataSets:
    """Those of a batch, whose data are known where its model and responses are given.

    Raises:
        ValueError: fewer than two replicates that converged; a model of other coefficients; responses of another
            number.
    """
    kept, names = np.flatnonzero(batch.converged), batch.names
    _check_enough(len(kept), len(batch))
    columns, coefficients = names.fixef, (*names.fixef, *names.further)
    model = None if model is None else unfitted(model)
    if model is not None and tuple(model.design.coefficients) != coefficients:
        raise ValueError(
            f"model has the coefficients {', '.join(model.design.coefficients)}, and the batch "
            f"{', '.join(coefficients)}: give the model that fit_many was given"
        )
    c = {name: batch.columns[name][kept] for name in batch.columns}
    linear = names.statistic == "t"
    constants = 1 if names.has_phi or names.has_scale else 0
    return DataSets(
        what="a batch" if model is None else model.design.formula,
        design=Named(columns, coefficients) if model is None else model.design,
        Q=np.hstack([c["fixef"], c["further"]]) if names.further else c["fixef"],
        U=_covariances(c, len(coefficients)),
        varcorrs=[batch[int(k)].varcorr() for k in kept],
        dispersion=c["dispersion"] if names.has_phi else None,
        params=names.family_params,
        family_params=c["family_params"].reshape(len(kept), -1),
        deviance=-2 * c["loglik"],
        reml=names.reml,
        num_params=len(coefficients) + names.theta + constants + len(names.family_params),
        residual_df=_rows(c, model) - len(columns) if linear else np.inf,
        statistic=names.statistic,
        kept=kept,
        given=len(batch),
        lanes=None if Y is None else _lanes(model, Y, len(batch)),
    )


def _rows(columns: Mapping[str, np.ndarray], model: Any) -> float:
    """The fewest rows of a data set, the model's where files from before do not say; NaN where nobody does."""
    fewest = int(np.min(columns["nobs"])) if "nobs" in columns else 0
    return float(fewest) if fewest > 0 else np.nan if model is None else float(len(model.design.y))


def _covariances(columns: Mapping[str, np.ndarray], p: int) -> np.ndarray:
    """(m, p, p) as they were kept, else with NaN beside the diagonal."""
    if "fixef_cov" in columns:
        return unpacked(columns["fixef_cov"], p)
    variances = np.hstack([columns["bse"], columns.get("further_bse", np.zeros((len(columns["bse"]), 0)))]) ** 2
    return np.where(np.eye(p, dtype=bool), variances[:, :, None], np.nan)


_arrays_for = Program(lambda likelihood, *given: likelihood.arrays_for(*given), (0,))


def _lanes(model: Any, Y: Any, count: int) -> Callable[[int], Data]:
    """The data of replicate k of what ``fit_many`` was given."""
    source: Any = as_responses(Y, len(model.design.y))
    if getattr(source, "n", None) != count:
        raise ValueError(f"Y has {getattr(source, 'n', 'an unknown number of')} responses, and the batch {count} fits")
    unknown = sorted(source.varies - {"y", "weights", "offset", "start"})
    if unknown:
        raise ValueError(f"the data sets differ in {', '.join(unknown)} too: pool a list of fits for method='D3'")
    n_agq = getattr(model.likelihood, "n_agq", 1)

    def data(k: int) -> Data:
        own: Varying = source.block(k, 1).each(lambda x: np.asarray(x)[0])
        for name, x in (("Y", own.y), ("weights", own.weights)):
            if x is not None and not (np.all(np.isfinite(x)) and (name == "Y" or np.all(x > 0))):
                raise ValueError(f"{name} of data set {k} leaves rows out: pool a list of fits for method='D3'")
        with computing(model.device):
            arrays = _arrays_for(model.likelihood, model.arrays, model.rows, own.y, own.weights, own.offset)
        return Data(model, arrays, n_agq)

    return data


def gather(fits: Any, model: Any = None, Y: Any = None) -> DataSets:
    """Those of a batch, or of an iterable of fits.

    Raises:
        TypeError: neither.
        ValueError: ``model`` or ``Y`` beside a list of fits, which know theirs; ``Y`` without ``model``.
    """
    if isinstance(fits, FitBatch):
        if Y is not None and model is None:
            raise ValueError("Y= holds the responses of a model: give model= too")
        return of_batch(fits, model, Y)
    if isinstance(fits, Fit | str | Mapping) or hasattr(fits, "columns") or not isinstance(fits, Iterable):
        raise TypeError(
            f"pool takes the fits of several imputations, a list of them or the FitBatch that fit_many returns, not a "
            f"{type(fits).__name__}; of imputed tables: pool(mm.fit_many(tables, formula=..., keep='vcov'))"
        )
    if model is not None or Y is not None:
        raise ValueError("model= and Y= are for a batch: each fit of a list has its own model and data")
    return of_fits(list(fits))


def _check_enough(kept: int, given: int) -> None:
    if kept < 2:
        raise ValueError(f"{kept} of {given} fits converged, and pooling needs two at least: see their status")


def _check_alike(a: Fit, b: Fit) -> None:
    """Raises ValueError where two fits are not of one model."""
    ours, theirs = a.model.design, b.model.design
    parts = [
        ("coefficients", list(ours.coefficients), list(theirs.coefficients)),
        ("families", repr(a.family), repr(b.family)),
        ("criteria", a.model.likelihood.kind, b.model.likelihood.kind),
        ("effects", [t.effects for t in ours.terms], [t.effects for t in theirs.terms]),
    ]
    for name, x, y in parts:
        if x != y:
            raise ValueError(ONE_MODEL.format(name, x, y))
