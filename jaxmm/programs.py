"""For programs: pure functions of ``model.arrays``, whichever likelihood they belong to.

Safe under ``jit``, ``grad``, ``hessian`` and ``vmap``; no labels, no global state.  One thing they share with every
function whose derivative is a rule of its own: a second derivative taken *through* a ``lax.scan`` or ``lax.map`` around
them is wrong, since JAX drops the rule there; take it inside the loop, or use ``vmap``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxmm import estimate as estimate_lmm
from jaxmm import estimate_glmm
from jaxmm._types import Array
from jaxmm.estimate import Estimates
from jaxmm.estimate_glmm import GlmmEstimates
from jaxmm.gram import Gram
from jaxmm.layout import Parameters
from jaxmm.objective import laplace, lmm
from jaxmm.objective.parameters import as_parameters, check_precision
from jaxmm.optimize import Control
from jaxmm.rows import Rows
from jaxmm.start_given import as_start, raised_theta, scaled_psi


def neg2_loglik(parameters: Parameters | Mapping[str, Any], arrays: Gram | Rows) -> Array:
    """-2 log-likelihood at any parameters, with all constants, nothing profiled out.

    Of a linear model the full likelihood, also when it was made with ``reml=True``; of a generalised one Laplace's
    approximation, whose conditional modes are found inside and differentiated implicitly.

    Args:
        parameters: ``Parameters``, or a mapping with its names, in the columns of the data.
        arrays: ``model.arrays``.

    Raises:
        TypeError: for float64 arrays while JAX is in 32-bit mode, which would truncate them in silence.

    Bates, Mächler, Bolker & Walker (2015), J. Stat. Softw. 67(1); Tierney & Kadane (1986), JASA 81.

    Example:
        >>> with jax.enable_x64(True):
        ...     at = mm.Parameters(np.array(fit.fixef), fit.theta, np.log(fit.scale))
        ...     print(round(float(mm.neg2_loglik(at, fit.model.arrays)), 1))
        1752.0
    """
    check_precision(_dtype(arrays))
    if isinstance(arrays, Rows):
        return laplace.neg2_loglik(as_parameters(parameters), arrays)
    return lmm.neg2_loglik(parameters, arrays)


def estimate(
    arrays: Gram | Rows,
    *,
    start: Array | Parameters | Mapping[str, Any] | None = None,
    control: Control | None = None,
) -> Estimates | GlmmEstimates:
    """Fit from arrays alone: a pure function, safe under ``jit`` and ``vmap``.

    The search is a compiled loop.  Derivatives of the result with respect to the leaves of ``arrays`` come from the
    implicit function theorem at the optimum, dθ̂ = -H⁻¹ (∂²f/∂θ∂arrays) darrays, not from the loop; those of
    ``theta`` itself do not exist where a variance is zero.  ``model.arrays_for(y, weights=, offset=)`` is a pure
    function too, so that ``jax.grad(lambda y: mm.estimate(model.arrays_for(y)).beta[1])`` is the influence of each
    response on a coefficient.  Derivatives of first order only; those of the covariance of a generalised model
    (``vcov``, ``covariance``), and of what tells how the search ended, are left out: constants.

    Args:
        arrays: ``model.arrays``; float64 needs x64 enabled. In float32 the tolerance is raised to what its
            rounding allows.
        start: where the search begins, in the data's columns: theta (m,), as ``estimates.theta``, or ``Parameters`` (a
            mapping with their names will do) with beta (p,) and log_phi (k,) too, of which a linear model needs
            neither and a generalised one guesses what is not given. By default moments of the data. A variance of
            zero is raised a little, for a search that begins there is stuck.
        control: ``jaxmm.Control``; its device is not looked at, the arrays have one.

    Returns:
        ``Estimates`` or ``GlmmEstimates`` of JAX arrays; ``status`` says how the search ended. Nothing is raised for a
        hard data set.

    Raises:
        TypeError: for float64 arrays while JAX is in 32-bit mode.
        ValueError: a start of other shapes than the model's parameters.

    Example:
        >>> with jax.enable_x64(True):
        ...     print(jax.jit(mm.estimate)(fit.model.arrays).beta.round(2))
        [251.41  10.47]
    """
    check_precision(_dtype(arrays))
    given = None if start is None else as_start(start, arrays)
    if isinstance(arrays, Rows):
        psi = None if given is None else scaled_psi(given, arrays, estimate_glmm.first_guess(arrays), jnp)
        return estimate_glmm.estimate(arrays, start=psi, control=control)
    theta = None if given is None else raised_theta(given.theta, arrays, jnp)
    return estimate_lmm.estimate(arrays, start=theta, control=control)


def _dtype(arrays: Gram | Rows) -> Any:
    return arrays.y.dtype if isinstance(arrays, Rows) else arrays.dtype
