"""The parameters of a likelihood, and theta -> the factor lam (q, q) of each grouping factor, in elimination order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.layout import Parameters
from jaxmm.structure import Structure


def as_parameters(parameters: Parameters | Mapping[str, Any]) -> Parameters:
    """``Parameters``, or a mapping with its names."""
    return Parameters(**parameters) if isinstance(parameters, Mapping) else parameters


def check_precision(dtype: Any) -> None:
    """Raises TypeError for float64 arrays while JAX is in 32-bit mode, which would truncate them in silence."""
    if str(dtype) == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
        raise TypeError(
            "these arrays are float64 but JAX is in 32-bit mode here and would truncate them: call this inside "
            "`with jax.enable_x64(True):`, or set JAX_ENABLE_X64=1, or pass arrays cast to float32"
        )


def scaled_factors(theta: Array, arrays: Any) -> tuple[Array, ...]:
    """theta (m, ..) -> lam of every factor (q, q, ..), in the columns that the criterion works in (Z_s); ``arrays`` of
    the model, a ``Gram`` or ``Rows``."""
    return factors(theta, arrays.structure, arrays.inputs)


def factors(theta: Array, structure: Structure, inputs: Sequence[Any]) -> tuple[Array, ...]:
    """theta (m, ..) -> lam of every factor (q, q, ..); ``inputs`` of each term as in ``Gram``."""
    widths = list(structure.chain) + [q for _, q in structure.rest]
    lams = [jnp.zeros((q, q, *theta.shape[1:]), theta.dtype) for q in widths]
    for term, at, own in zip(structure.terms, structure.slices(), inputs, strict=True):
        lam = term.covariance.lam(theta[at], own)
        if lam.shape == lams[term.position].shape:
            lams[term.position] = lam
        else:
            inside = slice(term.at, term.at + term.covariance.q)
            lams[term.position] = lams[term.position].at[inside, inside].set(lam)
    return tuple(lams)


def resolved(theta: Array, arrays: Any) -> tuple[tuple[Array, ...], Any]:
    """theta (m,) -> lam of every factor as to Z_s, and the ``Gram`` whose errors are independent and of one variance:
    ``arrays`` themselves, or where the errors have a covariance what is left when it is taken out."""
    return scaled_factors(theta, arrays), whitened(theta, arrays)


def whitened(theta: Array, arrays: Any) -> Any:
    """The second of ``resolved``."""
    own, s = arrays.residual, arrays.structure
    if own is None:
        return arrays
    found = own.gram(theta[s.num_random :], arrays)
    return replace(found, log_sigma2=s.log_sigma2(theta)) if s.residual.sigma == "searched" else found


def original_factors(theta: Array, arrays: Any) -> tuple[Array, ...]:
    """theta as to the original columns of Z -> lam as to Z_s = ZT: Z lam = Z_s (T^-1 lam)."""
    lams = scaled_factors(theta, arrays)
    return tuple(jnp.linalg.solve(t, lam) for t, lam in zip(arrays.T, lams, strict=True))


def change_theta(theta: Any, T: Sequence[Any], arrays: Any, xp: Any = np) -> Any:
    """theta (m,) of lam -> theta of T lam, ``T`` (q, q) of each factor; a structure that does not survive it keeps its
    theta, and its T is I."""
    s, out = arrays.structure, []
    for term, at, own in zip(s.terms, s.slices(), arrays.inputs, strict=True):
        inside = slice(term.at, term.at + term.covariance.q)
        moved = theta[at]
        if term.covariance.closed_under != "none":
            moved = term.covariance.changed(moved, T[term.position][inside, inside], own)
        out.append(moved)
    return xp.concatenate([*out, theta[s.num_random :]])
