"""Single fits -> results of lanes, the replicates last."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.fitted import Fitted
from jaxmm.lanes.problem import Found


def side_by_side(fits: list[Fitted]) -> Found:
    """Of fits of models that have the same coefficients, effects and family."""
    model, lik, estimates = fits[0].model, fits[0].model.likelihood, [f.estimates for f in fits]
    roots = [np.sqrt(lik.effects_scale(e)) for e in estimates]

    def last(values: list[Any]) -> np.ndarray:
        return np.stack([np.asarray(x, float) for x in values], axis=-1)

    parts: dict[str, Any] = dict(
        beta=last([e.beta for e in estimates]),
        bse=last([np.sqrt(np.maximum(np.diag(e.vcov), 0.0)) for e in estimates]),
        theta=last([e.theta for e in estimates]),
        lams=tuple(
            last([r * f.factor_lam(k) for r, f in zip(roots, fits, strict=True)]) for k in model.elimination.order
        ),
        phi=last([np.ravel(lik.phi(e))[0] for e in estimates]),
        deviance=last([e.deviance for e in estimates]),
        status=np.array([int(e.status) for e in estimates], np.int32),
        further=last([list(lik.family_params(e).values()) for e in estimates]) if lik.family.constant_names else (),
    )
    return Found(**parts)
