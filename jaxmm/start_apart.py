"""Where the search for a model with several predictors begins: the maximum without random effects.

    max over β, log φ of  Σ w log p(y | η_0 .. η_m, φ),      η = Xβ + offset

by BFGS from the GLM of the mean and constants for the other parameters; effects of one size each.  The columns are
orthogonal and of unit size (``gram``), so that few steps suffice; it is a start.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program, bucket, filled
from jaxmm._types import Array
from jaxmm.gram import Accumulator
from jaxmm.layout import Parameters
from jaxmm.objective.density import density_of
from jaxmm.rows import Rows
from jaxmm.start import independent_theta
from jaxmm.start_glmm import Data, fit_glm

FIRST_SD = 0.5  # of every effect
STEPS, NEAR = 60, 1e-5  # of BFGS; slope of the log likelihood, for each row, from which the search itself goes on


@partial(Program, static_argnums=(0, 1))
def _value_and_slope(family: Any, predictors: Any, x: Array, data: dict[str, Array]) -> tuple[Array, Array]:
    """-log likelihood without random effects at x = (β, log φ), and its gradient."""

    def value(x):
        p = data["X"].shape[1]
        slices = predictors.slices(p)
        etas = tuple(data["offsets"][k] + data["X"][:, at] @ x[at] for k, at in enumerate(slices))
        terms = density_of(family, predictors.names, data["y"], etas, x[p:], data["trials"])
        return -jnp.sum(data["weights"] * terms)

    return jax.value_and_grad(value)(x)


def start(family: Any, data: Data, rows: Rows, offsets: list[Any], accumulator: Accumulator) -> np.ndarray:
    """psi = (beta_s, theta_s, log phi) to begin with; ``offsets`` (n,) or None of the predictors after the first."""
    from scipy.optimize import minimize

    of, n = rows.structure.predictors, len(data.y)
    beta, phi, *_ = fit_glm(family.glm, data, family.glm.start_constants(family.num_phi))
    constants = {"phi": phi[0] if len(phi) else 0.0, **{p.name: p.start for p in family.further}}
    others = [np.zeros(n) if x is None else x for x in offsets]
    sides = [columns.rows(slice(0, n)) for columns in accumulator.further]
    begin = [beta]
    for name, X, offset in zip(of.names[1:], sides, others, strict=True):
        begin.append(np.linalg.lstsq(X, constants[name] - offset, rcond=None)[0])
    log_phi = family.start_constants(0 if "phi" in of.names else family.num_phi)
    log_phi[: len(log_phi) - family.num_extras] = phi[: len(log_phi) - family.num_extras]
    length = bucket(n)
    arrays = {
        "X": np.column_stack([filled(x, length, x[-1]) for x in np.hstack([data.X, *sides]).T]),
        "offsets": tuple(filled(x, length, x[-1]) for x in (data.offset, *others)),
        "y": filled(data.y, length, data.y[-1]),
        "trials": filled(data.trials, length, data.trials[-1]),
        "weights": filled(data.weights, length, 0.0),
    }

    x = np.concatenate([*begin, log_phi])
    program = _value_and_slope.bind(family, of, x, arrays)

    def criterion(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = program(family, of, x, arrays)
        usable = np.isfinite(value) and np.all(np.isfinite(slope))
        return (float(value), np.array(slope)) if usable else (1e300, np.zeros(len(x)))

    found = minimize(criterion, x, jac=True, method="BFGS", options={"maxiter": STEPS, "gtol": NEAR * len(data.y)}).x
    beta, log_phi = np.split(found if np.all(np.isfinite(found)) else x, [rows.structure.p])
    theta = np.asarray(independent_theta(rows, FIRST_SD, np))
    return rows.layout.join(Parameters(beta, theta, log_phi))  # pyright: ignore
