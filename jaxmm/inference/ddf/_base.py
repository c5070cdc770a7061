"""What a test of Lβ compares its statistic with: the errors of β̂, and their degrees of freedom.

    each row l      t = l β̂ / se,  se² = l V l'                 t with ``df(L)`` degrees of freedom
    rows together   F = scale · (Lβ̂)'(L V L')⁻¹ Lβ̂ / k          F with k and ``denominator(L)``'s degrees of freedom

V is ``vcov``, which a method may have adjusted.  A method is one file in ``inference/ddf``: a function of a prepared
model and its estimates that returns such an object, and an entry in ``METHODS``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class Denominator(NamedTuple):
    """``scale`` times Wald's F has ``df`` denominator degrees of freedom."""

    scale: float
    df: float


class Reference(Protocol):
    """``name`` as asked for, ``beta`` (p,), ``vcov`` (p, p), and ``notes`` on what the reader must know, a sentence
    each.  Degrees of freedom that cannot be had are NaN, and a note says why."""

    @property
    def name(self) -> str: ...
    @property
    def beta(self) -> np.ndarray: ...
    @property
    def vcov(self) -> np.ndarray: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def df(self, L: np.ndarray) -> np.ndarray:
        """Degrees of freedom (k,) of the t of each row of L (k, p)."""
        ...

    def denominator(self, L: np.ndarray) -> Denominator:
        """Of the F of all rows of L (k, p) at once; they are independent."""
        ...
