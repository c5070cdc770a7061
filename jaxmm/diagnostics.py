"""How the search of a fit ended, and what limits the meaning of its estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.describe import spell
from jaxmm.optimize import Status, is_flat

SINGULAR = 1e-4  # a diagonal element of lam below this: lme4's isSingular


@dataclass(frozen=True)
class Diagnostics:
    """How the search ended and where it ran.

    ``decrement`` is the Newton decrement ½ g'H⁻¹g, the deviance still to gain; ``eigenvalue`` the least of the
    Hessian of the deviance, in the scaled columns that the search works in.

    Example:
        >>> fit.diagnostics.status_message
        'converged'
    """

    status: Status
    gradient_norm: float
    decrement: float
    eigenvalue: float
    iterations: int
    solver: str
    device: str

    @property
    def status_message(self) -> str:
        """How the search ended, in words."""
        return self.status.message


def diagnostics(fit: Any) -> Diagnostics:
    """The numbers with which the search of a fit ended."""
    e, device = fit.estimates, fit.model.device
    return Diagnostics(
        status=Status(int(e.status)),
        gradient_norm=float(np.linalg.norm(np.asarray(e.gradient))),
        decrement=float(e.decrement),
        eigenvalue=float(e.eigenvalue),
        iterations=int(e.iterations),
        solver=fit.model.solver,
        device=f"{device.platform}:{device.id}",
    )


def singular_terms(fit: Any) -> list[str]:
    """The terms with a diagonal element of Λ below SINGULAR units of θ, as they are written in the formula."""
    d, out = fit.model.design, []
    for (t, layout), at in zip(fit.model.theta_terms(), fit.model.structure.slices(), strict=True):
        term = d.terms[t]
        if np.min(layout.covariance.pivots(fit.theta[at], term.inputs)) < SINGULAR * fit.model.unit:
            out.append(f"({spell(term.effects)} | {d.factors[term.factor].name})")
    return out


def remarks(fit: Any) -> list[str]:
    """What the design, the likelihood and the end of the search say, one sentence each; empty for most fits."""
    out = [*fit.model.design.remarks, *fit.model.likelihood.remarks(fit)]
    if fit.converged and not fit.is_singular and is_flat(np.asarray(fit.estimates.hessian)):
        out.append(
            "the likelihood is flat in some direction of the parameters: the data do not identify them "
            "all, and those printed depend on where the search began"
        )
    return out
