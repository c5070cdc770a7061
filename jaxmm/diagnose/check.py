"""A fit -> what is the matter with it, and what to do: each thing that is looked into is one function of findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxmm._random import as_key
from jaxmm.diagnose import of_design, of_distribution, of_search
from jaxmm.diagnose.finding import RANK, Check, Finding
from jaxmm.diagnose.simulated import SHARE, simulated_residuals
from jaxmm.fitted import Fitted

SIMULATIONS = 400  # so that a p of two sides can be below 0.01
NUMBERS = 20_000_000  # of simulated responses at most, as many as fit into a second


class Look(NamedTuple):
    """``sentence``: what is looked at; ``find`` gives findings; ``why_not`` a reason not to look, or nothing."""

    name: str
    sentence: str
    find: Callable[[], list[Finding]]
    why_not: str | None = None


def check(fit: Fitted, key: Any) -> Check:
    """See ``Fit.check``."""
    looks = [*_of_search(fit), *_of_design(fit), *_of_distribution(fit, as_key(0 if key is None else key))]
    done = [look for look in looks if look.why_not is None]
    found = [finding for look in done for finding in look.find()]
    return Check(
        fit.formula,
        tuple(sorted(found, key=lambda f: RANK[f.severity])),
        {look.name: look.sentence for look in done},
        {look.name: look.why_not for look in looks if look.why_not is not None},
    )


def _of_search(fit: Any) -> list[Look]:
    nodes = None if fit.model.likelihood.statistic == "z" else "the likelihood is exact"
    free = None if fit.family.link.unit_free and nodes is None else ""
    looks = [
        Look("convergence", "the search ended at a maximum", lambda: of_search.convergence(fit)),
        Look("data", "nothing was read in a way that may surprise", lambda: of_search.remarks(fit)),
        Look("singular", "every direction of the random effects has a variance", lambda: of_search.singular(fit)),
        Look(
            "curvature",
            "the likelihood falls in every direction",
            lambda: of_search.curvature(fit),
            _not_ended(fit) or ("it is flat where the covariance is singular" if fit.singular_terms else None),
        ),
    ]
    if nodes is None:
        looks.append(
            Look(
                "approximation",
                "more nodes change the likelihood little",
                lambda: of_search.approximation(fit),
                _not_ended(fit),
            )
        )
    if free is None:
        looks.append(Look("separation", "every coefficient has a standard error", lambda: of_search.separation(fit)))
    return looks


def _not_ended(fit: Any) -> str | None:
    """A reason not to look at an end that there is not."""
    return None if fit.converged else "the search did not converge"


def _of_design(fit: Any) -> list[Look]:
    return [
        Look("levels", "every factor has levels enough", lambda: of_design.levels(fit)),
        Look("collinearity", f"variance inflation below {of_design.INFLATED:g}", lambda: of_design.columns(fit)),
    ]


def _of_distribution(fit: Any, key: Any) -> list[Look]:
    """A linear model's residuals as they are; those of others by simulation."""
    ended = _not_ended(fit)
    effects = Look(
        "random effects", "modes are normal, none is far out", lambda: of_distribution.effects(fit), why_not=ended
    )
    if fit.model.likelihood.precisions:
        of_rows = Look(
            "residuals", "normal, of one spread, none far out", lambda: of_distribution.residuals(fit), why_not=ended
        )
        return [of_rows, effects]
    return [effects, *_by_simulation(fit, key, ended)]


def _by_simulation(fit: Any, key: Any, why_not: str | None) -> list[Look]:
    d = fit.model.design
    n = SIMULATIONS
    if why_not is None and n * len(d.y) > NUMBERS:
        why_not = f"{len(d.y)} rows are many to simulate: use fit.simulated_residuals(n, key=...)"
    sr: Any = None if why_not else simulated_residuals(fit, n, key, "conditional")
    if d.trials is not None and np.all(d.trials == 1):
        counts = "a response of two values has the variance that its mean tells"
    else:
        counts = None if np.all(d.y == np.round(d.y)) else "the response is no count"

    def uniform() -> list[Finding]:
        # given modes that have taken much of the rows' freedom many rows show it: compare like with like
        return of_distribution.uniformity(sr if sr.taken <= SHARE else simulated_residuals(fit, n, key, "new"))

    return [
        Look("dispersion", "the response varies as the family does", lambda: of_distribution.dispersion(sr),
             counts or why_not),
        Look("zeros", "there are as many as the model gives", lambda: of_distribution.zeros(sr), counts or why_not),
        Look("simulated residuals", "uniform, also along the prediction", uniform, why_not),
    ]  # fmt: skip
