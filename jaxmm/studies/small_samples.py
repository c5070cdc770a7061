"""Tests in studies by t and F, which do not take variances for known: Satterthwaite's and Kenward & Roger's.

Satterthwaite    t of each coefficient with the degrees of freedom that lanes keep; one by one where they do not, and F
KenwardRoger     of each replicate its own covariance, scale and degrees of freedom: a few milliseconds each
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmm.inference import ddf, wald
from jaxmm.inference.ddf.kenward_roger import errors_are_linear
from jaxmm.inference.hypothesis import joint
from jaxmm.model import Model
from jaxmm.studies.hypotheses import Columns, Fits
from jaxmm.studies.lane import lane_estimates, lane_model, lanes


@dataclass(frozen=True)
class Satterthwaite:
    """Wald's test with Satterthwaite's degrees of freedom, of a linear model (Giesbrecht & Burns 1985, Biometrics 41).

    ``columns``: those tested together, each by itself where None; ``name`` in tables; ``without``, no columns: it needs
    no null model.

    Example:
        >>> test = mm.Satterthwaite(("Days",))
        >>> mm.study(fit, None, 4, key=1, tests=[test], progress=False).tests["test"].tolist()
        ['Satterthwaite']
    """

    columns: Columns | None = None
    name: str = "Satterthwaite"
    without: Columns = ()

    @property
    def keep(self) -> tuple[str, ...]:
        """What ``fit_many`` keeps for it."""
        return ("df",) if self.columns is None or len(self.columns) == 1 else ()

    def check(self, model: Model) -> None:
        """Raises ValueError for a ``model`` that is not linear."""
        _check(model, "satterthwaite", "Satterthwaite")

    def p_values(self, fits: Fits) -> dict[Columns, np.ndarray]:
        """As ``Test.p_values``: of ``fits``, p (n,) by the columns that are tested, NaN where a fit has none."""
        names, batch = fits.batch.names.fixef, fits.batch
        if (self.columns is not None and len(self.columns) > 1) or "df" not in batch.columns:
            return _one_by_one(
                fits, "satterthwaite", [(name,) for name in names] if self.columns is None else [self.columns]
            )
        p = wald.each(batch.fixef, batch.bse, np.asarray(batch.columns["df"])).p
        p = np.where(batch.converged[:, None], p, np.nan)
        return {(name,): p[:, names.index(name)] for name in self.columns or names}


@dataclass(frozen=True)
class KenwardRoger:
    """Kenward & Roger's (1997, Biometrics 53, 983-997) F, of a linear model by REML.

    ``columns``: those tested together, each by itself where None; ``name`` in tables; ``without``, no columns: it needs
    no null model; ``ddf``: "kenward-roger", or "kenward-roger-linear", which covariances that are not linear in their
    parameters take, such as ``ar1`` of the errors.

    Example:
        >>> test = mm.KenwardRoger(("Days",))
        >>> mm.study(fit, None, 4, key=1, tests=[test], progress=False).tests["test"].tolist()
        ['Kenward-Roger']
    """

    columns: Columns | None = None
    name: str = "Kenward-Roger"
    without: Columns = ()
    ddf: str = "kenward-roger"

    def check(self, model: Model) -> None:
        """Raises ValueError for a ``model`` that is not linear and by REML, or whose covariance is not linear."""
        _check(model, "kenward-roger", "KenwardRoger")
        if not model.reml:
            raise ValueError(
                "KenwardRoger is for fits by REML: make the model with reml=True, or test by Satterthwaite"
            )
        if (
            self.ddf == "kenward-roger"
            and model.structure.residual is not None
            and not errors_are_linear(
                model.arrays  # pyright: ignore[reportArgumentType]
            )
        ):
            raise ValueError(
                f"the test 'kenward-roger' depends on how the parameters of {model.design.residual.text} are written: "  # pyright: ignore
                "test by 'kenward-roger-linear', which does not, or 'satterthwaite'"
            )

    def p_values(self, fits: Fits) -> dict[Columns, np.ndarray]:
        """As ``Test.p_values``: of ``fits``, p (n,) by the columns that are tested, NaN where a fit has none."""
        asked = [(name,) for name in fits.batch.names.fixef] if self.columns is None else [self.columns]
        return _one_by_one(fits, self.ddf, asked)


def _check(model: Model, ddf: str, name: str) -> None:
    if ddf not in model.likelihood.ddf:
        raise ValueError(f"{name} is for linear mixed models: this one, {model.likelihood.kind}, takes WaldZ")


def _one_by_one(fits: Fits, method: str, asked: list[Columns]) -> dict[Columns, np.ndarray]:
    """p of hypotheses by the reference of each replicate."""
    names, n = list(fits.batch.names.fixef), len(fits.batch)
    p = {columns: np.full(n, np.nan) for columns in asked}
    for k, own in lanes(fits.responses(), fits.batch):
        model = lane_model(fits.model, own)
        found = ddf.reference(model, lane_estimates(model, np.asarray(fits.batch.theta[k])), method)
        for columns in asked:
            L = np.eye(len(names))[[names.index(c) for c in columns]]
            p[columns][k] = joint(L, 0.0, found)[2]
    return p
