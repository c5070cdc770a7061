"""Data sets that lack levels of factors: their models, without the columns of these, and where their results stand.

model, columns that are lost --> the model without them;  its results --by label--> NaN in the places of the others
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jaxmm.covariance import resized
from jaxmm.results.schema import Names, schema


def without_columns(model: Any, lost: np.ndarray) -> Any:
    """The model without the columns ``lost`` (p + q,) of X and then of Z, whose terms keep one each."""
    d = model.design
    p, terms = len(d.columns), []
    at = p
    for t in d.terms:
        kept = ~lost[at : at + len(t.effects)]
        at += len(t.effects)
        effects = tuple(e for e, k in zip(t.effects, kept, strict=True) if k)
        structure = resized(t.covariance, len(effects)) if len(effects) < len(kept) else t.covariance
        terms.append(replace(t, Z=t.Z[:, kept], effects=effects, covariance=structure))
    kept = ~lost[:p]
    columns = tuple(c for c, k in zip(d.columns, kept, strict=True) if k)
    return model.with_design(replace(d, X=d.X[:, kept], columns=columns, terms=tuple(terms)))


def placed(found: dict[str, np.ndarray], own: Names, names: Names) -> dict[str, np.ndarray]:
    """Columns of results of a model that is called ``own``, as columns of one that is called ``names``.

    theta has no labels: it is NaN where there are fewer of it.
    """
    if own == names:
        return found
    out, mine, all_of_them = {}, schema(own), schema(names)
    for name, x in found.items():
        labels = all_of_them[name].labels
        if labels is None:
            out[name] = x
            continue
        out[name] = all_of_them[name].blank(len(x))
        if name != "theta" or own.theta == names.theta:
            place = {label: k for k, label in enumerate(labels)}
            out[name][:, [place[label] for label in mine[name].labels or ()]] = x
    return out
