"""psi, the vector that the search of a generalised model moves, and where its parts stand.

    psi (k,)  =  beta (p,) | theta (m,) | log phi        as to X_s and Z_s

beta has the coefficients of all predictors, μ's first; log phi what parameters have none, as the search moves them
(``Family.constants``).

``Layout`` is static; nobody else counts places.  The search of a linear model moves theta alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array


class Parameters(NamedTuple):
    """Every parameter of a mixed model, in the columns of the data: ``beta`` (p,); ``theta`` (m,), relative to sigma
    in a linear model and absolute in a generalised one; ``log_phi``, log σ² in a linear model, (k,) in a generalised
    one (a number will do for k = 1, and nothing for k = 0).

    Example:
        >>> mm.Parameters(beta=np.zeros(2), theta=np.array([1.0, 0.0, 1.0]), log_phi=0.0).beta.shape
        (2,)
    """

    beta: Array
    theta: Array
    log_phi: Any = ()


@dataclass(frozen=True)
class Layout:
    """The named ``blocks`` of psi with their sizes, in order: those of ``Parameters``."""

    blocks: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.blocks)

    def at(self, name: str) -> slice:
        """Where a block stands."""
        start = 0
        for block, size in self.blocks:
            if block == name:
                return slice(start, start + size)
            start += size
        raise KeyError(name)

    def split(self, psi: Any) -> Parameters:
        """psi (k, ..) -> its blocks; of a gradient or a direction as well."""
        return Parameters(**{name: psi[self.at(name)] for name, _ in self.blocks})

    def join(self, parameters: Parameters) -> Any:
        """The way back: blocks (size, ..) of NumPy, or of JAX where any of them is."""
        parts = [getattr(parameters, name) for name, _ in self.blocks]
        xp = np if all(isinstance(part, np.ndarray) for part in parts) else jnp
        return xp.concatenate(parts)


def layout_of(structure: Any, family: Any) -> Layout:
    """That of a generalised model's psi."""
    constant = family.num_phi - ("phi" in structure.predictors.names) + family.num_extras
    return Layout((("beta", structure.p), ("theta", structure.num_theta), ("log_phi", constant)))
