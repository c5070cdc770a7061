"""Parameters of a distribution that no predictor serves: a name, a size that the data may tell, and a map

    raw (k,), any numbers   <->   the values as a density takes them

on which a search moves.  The dispersion φ is one, with a name and a place of its own; thresholds, a power, degrees of
freedom are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.links import Logit


class Map(Protocol):
    """A smooth bijection; numbers along the first axis, lanes last allowed.  Frozen, so that it can be compared."""

    def values(self, raw: Array) -> Array: ...
    def raw(self, values: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Positive:
    """Each above zero: e^raw."""

    def values(self, raw: Array) -> Array:
        return jnp.exp(raw)

    def raw(self, values: np.ndarray) -> np.ndarray:
        return np.log(values)


@dataclass(frozen=True)
class Interval:
    """Each strictly between two ends: low + (high - low) / (1 + e^-raw)."""

    low: float
    high: float

    def values(self, raw: Array) -> Array:
        return self.low + (self.high - self.low) * Logit().inverse(raw)

    def raw(self, values: np.ndarray) -> np.ndarray:
        share = (np.asarray(values) - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore", invalid="ignore"):  # outside there is no number
            return np.log(share) - np.log1p(-share)


@dataclass(frozen=True)
class Increasing:
    """Each above the one before it: the first is raw, the others e^raw further on."""

    def values(self, raw: Array) -> Array:
        return jnp.cumsum(jnp.concatenate([raw[:1], jnp.exp(raw[1:])]), axis=0)

    def raw(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, float)
        return np.concatenate([values[:1], np.log(np.diff(values, axis=0))])


class Extra(NamedTuple):
    """``labels``: the names of its numbers in ``Fit.family_params``; ``map``: from any real numbers to them, and back;
    ``start``: the values that a search begins with, one for each; ``limit``: the family that theirs becomes as the
    number grows without end, if one does.  A density takes one number as a number, several as an array."""

    labels: tuple[str, ...]
    map: Any  # a Map
    start: tuple[float, ...]
    limit: str | None = None
