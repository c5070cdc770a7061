"""Estimates of many responses -> a table of tests: a row per response and coefficient, p adjusted over responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.frames import as_backend
from jaxmm.inference import wald
from jaxmm.optimize import Status
from jaxmm.results import multiplicity

DDF = ("satterthwaite", "asymptotic")


def degrees(batch: Any, ddf: str | None) -> np.ndarray | None:
    """(n, p) degrees of freedom of the tests of a batch; None for the normal distribution.

    Args:
        ddf: "satterthwaite" or "asymptotic"; None takes the first where they were kept.

    Raises:
        ValueError: another name, or degrees of freedom that were not kept.
    """
    kept = "df" in batch.columns
    if ddf is None:
        return batch.df if kept else None
    name = ddf.lower() if isinstance(ddf, str) else ddf
    if name not in DDF:
        raise ValueError(f"ddf must be one of {', '.join(map(repr, DDF))}, not {ddf!r}")
    if name == "asymptotic":
        return None
    if not kept:
        raise ValueError("the batch has no degrees of freedom: fit_many(..., keep='df') keeps Satterthwaite's")
    return batch.df


def table(
    batch: Any,
    se: np.ndarray,
    df: np.ndarray | None,
    *,
    coef: str | Sequence[str] | None,
    adjust: str | None,
    labels: Sequence[Any] | None,
    level: float | None,
    backend: str,
) -> pd.DataFrame:
    """See ``FitBatch.test_table``; ``se`` and ``df`` (n, p), None for the normal distribution."""
    names, known = list(batch.names.fixef), batch.converged[:, None]
    wanted = wanted_coefs(names, coef)
    statistic, _, p = wald.each(batch.fixef, se, np.inf if df is None else df)
    p = np.where(known, p, np.nan)
    ends = None if level is None else wald.interval(batch.fixef, se, level, np.inf if df is None else df)
    status = np.array([s.name.lower() for s in Status])[np.asarray(batch.status, int)]
    own, parts = named(batch, labels), []
    for name in wanted:
        j = names.index(name)
        part = {**own, "coef": name, "estimate": batch.fixef[:, j], "se": se[:, j]}
        part |= {"z": statistic[:, j]} if df is None else {"df": df[:, j], "t": statistic[:, j]}
        part |= {"p": p[:, j], "p_adjusted": multiplicity.adjust(p[:, j], adjust)}
        part |= {} if ends is None else {"lower": ends[0][:, j], "upper": ends[1][:, j]}
        parts.append(pd.DataFrame({**part, "is_singular": batch.is_singular, "status": status}))
    return as_backend(pd.concat(parts, ignore_index=True), backend)


def wanted_coefs(names: Sequence[str], coef: str | Sequence[str] | None) -> list[str]:
    """The coefficients that are asked for, all where None.

    Raises:
        ValueError: one that the model has not.
    """
    wanted = list(names) if coef is None else [coef] if isinstance(coef, str) else list(coef)
    for name in wanted:
        if name not in names:
            raise ValueError(f"there is no coefficient {name!r}; the model has {', '.join(map(repr, names))}")
    return wanted


def named(batch: Any, labels: Sequence[Any] | None) -> dict[str, Any]:
    """What the responses are called: ``labels``, or those that they came with by dimension, or their numbers.

    Raises:
        ValueError: labels of another number than the responses.
    """
    if labels is not None and len(labels) != len(batch):
        raise ValueError(f"{len(labels)} labels for {len(batch)} responses: give one for each")
    if labels is None and batch.labels is not None:
        return batch.labels.columns()
    return {"response": batch.replicate if labels is None else labels}
