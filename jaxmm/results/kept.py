"""``keep=`` of ``fit_many``: names of what is kept of each replicate beside its estimates, and their columns.

"vcov"            fixef_cov (n, p(p + 1)/2)       covariance of the coefficients: lower triangle, column by column
"df"              df (n, p), df_sigma (n,)        Satterthwaite's, of each coefficient and of σ̂²; linear models
"dispersion_se"   log_dispersion_se (n,)          standard error of log φ̂; families with one φ
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.lanes.kept import triangle

COLUMNS = {"vcov": ("fixef_cov",), "df": ("df", "df_sigma"), "dispersion_se": ("log_dispersion_se",)}


def as_keep(model: Any, keep: Any) -> tuple[str, ...]:
    """The names in the order of ``COLUMNS``; one may be given by itself.

    Raises:
        ValueError: a name that there is not, or one that the model has no numbers for.
        TypeError: no names.
    """
    if not isinstance(keep, str | list | tuple | set | frozenset):
        raise TypeError(f"keep must be names of {', '.join(map(repr, COLUMNS))}, one or a list, not {keep!r}")
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if name not in COLUMNS:
            raise ValueError(f"keep must have names of {', '.join(map(repr, COLUMNS))}, not {name!r}")
    linear, family = "satterthwaite" in model.likelihood.ddf, model.likelihood.family
    if "df" in names and not linear:
        raise ValueError("keep='df' is for linear models: Satterthwaite's degrees of freedom are not those of this one")
    if "dispersion_se" in names:
        if linear:
            raise ValueError("keep='dispersion_se' is for generalised models: keep='df' tells how well σ is known")
        if family.num_phi != 1 or "phi" in model.design.predictors:
            has = "with a formula" if "phi" in model.design.predictors else f"of the {family.name} family"
            raise ValueError(f"keep='dispersion_se' is for a φ that is one number; this model, {has}, has no such φ")
    return tuple(name for name in COLUMNS if name in names)


def pairs_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """What the numbers of ``fixef_cov`` are called."""
    return tuple(f"{names[a]}, {names[b]}" for a, b in triangle(len(names)))


def unpacked(packed: np.ndarray, p: int) -> np.ndarray:
    """(.., r(r + 1)/2) -> (.., p, p), symmetric: of the first p of r."""
    r = int((np.sqrt(8 * packed.shape[-1] + 1) - 1) / 2)
    whole = np.empty((*packed.shape[:-1], p, p))
    for k, (a, b) in enumerate(triangle(r)):
        if a < p:
            whole[..., a, b] = whole[..., b, a] = packed[..., k]
    return whole


def absent(name: str) -> str | None:
    """What to do about a column that was not kept; None for a name that is none."""
    asked = [keep for keep, columns in COLUMNS.items() if name in columns]
    return f"there is no {name!r}: it was not asked for; fit_many(..., keep={asked[0]!r}) keeps it" if asked else None
