"""Cluster-robust covariance of the coefficients, by its kind: prepared model, estimates -> ``ddf.Reference``.

linear models        CR0, CR1, CR2, CR3      from residuals, with degrees of freedom of its own: ``linear``
generalised models   CR0, CR1, CR3           from scores of the likelihood: ``scores``
"""

from __future__ import annotations

from typing import Any

from jaxmm.inference.ddf import Reference
from jaxmm.inference.robust.clusters import Clusters as Clusters
from jaxmm.inference.robust.clusters import clusters_of

MODEL = "model"


def check_kind(model: Any, kind: Any) -> str:
    """``kind``, a covariance that the model has.

    Raises:
        ValueError: another one, or a component in its place.
    """
    accepted = (MODEL, *model.likelihood.sandwiches)
    if isinstance(kind, str) and kind in accepted:
        return kind
    hint = ""
    if isinstance(kind, str) and kind.upper() == "CR2":
        hint = ": it adjusts residuals of a linear model, and a generalised one has scores; CR3 is near it"
    elif isinstance(kind, str) and (kind == "all" or kind in model.design.predictors):
        hint = f": component={kind!r} is the keyword for it"
    raise ValueError(f"the kind of a covariance must be one of {', '.join(map(repr, accepted))}, not {kind!r}{hint}")


def reference(model: Any, estimates: Any, kind: str, cluster: Any) -> Reference:
    """What tests with the covariance of a kind are made with, and the degrees of freedom that belong to it.

    Raises:
        ValueError: a kind that the model has not, or clusters that there are not; see ``clusters_of``.
    """
    check_kind(model, kind)
    return model.likelihood.robust(model, estimates, kind, clusters_of(model.design, cluster))
