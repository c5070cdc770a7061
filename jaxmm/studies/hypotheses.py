"""Tests of fixed effects in every replicate of a study: fits -> p-values.

A test is one small class: a name, the columns that its null model lacks, and ``p_values``.  Another test is another
class with the same three (``small_samples`` and ``resampled_tests`` have some); it may have a ``note`` of the model, a
``check`` of it that raises ValueError before anything is fitted, and ``keep``, what of ``fit_many``'s it needs.

    WaldZ              2 Φ(-|estimate / se|), from the fits of the study
    LikelihoodRatio    P(χ²_df > 2 (loglik - that of the null model)), both by maximum likelihood, on one response
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jaxmm.design import Design
from jaxmm.inference import wald
from jaxmm.inference.compare import likelihood_ratio
from jaxmm.model import Model
from jaxmm.results.result import FitBatch
from jaxmm.sources.responses import Responses

Columns = tuple[str, ...]


@dataclass(frozen=True)
class Fits:
    """What a test may use: the study's fits, those of the same model by maximum likelihood (the same object where it is
    fitted so anyway; None where no test needs it), and by the columns left out the fits of the null models; ``source``
    of the responses, the study's ``key``, and the ``options`` of ``fit_many``."""

    model: Model
    batch: FitBatch
    by_ml: FitBatch | None
    nulls: Mapping[Columns, FitBatch]
    source: Any = None
    key: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def responses(self, model: Model | None = None) -> Responses:
        """What the replicates have of their own, for ``model``, or for that of the fits."""
        return source_for(self.source, self.model if model is None else model)


def source_for(source: Any, model: Model) -> Responses:
    """A source for another model of the same rows: one that draws covariates makes the columns of that model."""
    return source.on(model) if hasattr(source, "on") else source


class Test(Protocol):
    """A test.  ``without`` names the columns that its null model lacks, () for a test that needs none."""

    @property
    def name(self) -> str: ...
    @property
    def without(self) -> Columns: ...
    def p_values(self, fits: Fits) -> Mapping[Columns, np.ndarray]:
        """By the columns whose coefficients are zero under the hypothesis: p (n,), NaN where there is none."""
        ...


@dataclass(frozen=True)
class WaldZ:
    """Each coefficient by itself, the normal distribution for its estimate over its standard error.

    It takes the standard error for known: anticonservative with few levels. ``columns``: those tested, all where None;
    ``name`` in tables; ``without``, no columns, since it needs no null model.

    Example:
        >>> mm.study(fit, None, 4, key=1, tests=[mm.WaldZ(("Days",))], progress=False).tests["test"].tolist()
        ['Wald z']
    """

    columns: Columns | None = None
    name: str = "Wald z"
    without: Columns = ()

    def note(self, model: Model) -> str | None:
        """What the reader of the rates of ``model`` should know; None for a design with many levels."""
        few = wald.few_levels({f.name: len(f.levels) for f in model.design.factors})
        return few and f"{few}: the rate where there is no effect is part of this power"

    def p_values(self, fits: Fits) -> dict[Columns, np.ndarray]:
        """As ``Test.p_values``: of ``fits``, p (n,) by the columns that are tested, NaN where a fit has none."""
        names = fits.batch.names.fixef
        wanted = names if self.columns is None else self.columns
        p = wald.each(fits.batch.fixef, fits.batch.bse).p
        p = np.where(fits.batch.converged[:, None], p, np.nan)
        return {(name,): p[:, names.index(name)] for name in wanted}


@dataclass(frozen=True)
class LikelihoodRatio:
    """The coefficients of ``without`` together, chi-squared with as many degrees of freedom (Wilks 1938); ``name`` in
    tables.

    Example:
        >>> test = mm.LikelihoodRatio(("Days",))
        >>> mm.study(fit, None, 4, key=1, tests=[test], progress=False).tests["test"].tolist()
        ['likelihood ratio']
    """

    without: Columns
    name: str = "likelihood ratio"

    def p_values(self, fits: Fits) -> dict[Columns, np.ndarray]:
        """As ``Test.p_values``: of ``fits``, p (n,) by the columns that are tested, NaN where a fit has none."""
        full, null = fits.by_ml, fits.nulls[self.without]
        assert full is not None
        p = likelihood_ratio(null.deviance, full.deviance, len(self.without)).p
        return {self.without: np.where(full.converged & null.converged, p, np.nan)}


def columns_of(design: Design, name: str | Sequence[str]) -> Columns:
    """The columns of X that are meant: one of them, a term of the formula with all its columns, or several of these.

    Raises:
        ValueError: neither a column nor a term.
    """
    if not isinstance(name, str):
        return tuple(dict.fromkeys(c for one in name for c in columns_of(design, one)))
    if name in design.columns:
        return (name,)
    if design.spec is not None and design.fixed_terms.get(name):
        return design.fixed_terms[name]
    raise ValueError(
        f"there is no coefficient and no term {name!r}; the model has {', '.join(map(repr, design.columns))}"
    )


def without(model: Model, columns: Columns) -> Model:
    """The model without some columns of X; its random effects stay.

    Raises:
        ValueError: a column that it has not.
    """
    d = model.design
    for name in columns:
        columns_of(d, name)
    return model.with_design(d.without(columns))
