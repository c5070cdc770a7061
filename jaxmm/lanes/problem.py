"""What a batch asks of the model whose lanes it searches, and what is common to all of them.

A problem is a pytree of what the lanes share.  It turns responses into the data of lanes, evaluates the criterion for
all lanes at once, and says at the end what was found, in the columns of the data.  There are nine: one factor, or any
structure, of a linear or a generalised model (``linear_blocks``, ``linear_lanes``, ``generalised_blocks``,
``generalised_lanes``), and of a linear one whose lanes differ in more than y (``linear_weighted``, ``linear_own``,
``linear_rows``), and a linear one whose errors have a covariance, without random effects (``linear_patterns``) or of
any structure (``linear_errors``).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.covariance import lower
from jaxmm.lanes.advance import Lanes, Value
from jaxmm.sources.responses import Varying


class Found(NamedTuple):
    """Results with the lanes last, in the columns of the data: ``beta``, ``bse`` (p, L), ``theta`` (m, L), ``lams`` the
    factor of D of each grouping factor in elimination order (q, q, L), absolute; ``phi`` (L,), σ² of a linear model;
    ``deviance``, ``status`` (L,); ``further`` (k - 1, L) of the family's other φ, or (); ``vcov`` (p, p, L) and
    ``log_phi_se`` (L,), the standard error of log φ of a generalised model, of which ``kept`` makes columns on request;
    ``columns``, what else there is, by the names of ``schema.DECLARED``: (L,) or (k, L)."""

    beta: Array
    bse: Array
    theta: Array
    lams: tuple[Array, ...]
    phi: Array
    deviance: Array
    status: Array
    further: Any = ()
    vcov: Any = ()
    log_phi_se: Any = ()
    columns: dict[str, Array] = {}  # noqa: RUF012


class Problem(Protocol):
    """A pytree; every method is pure and traced.

    ``accepts``: what lanes may have of their own, names of ``Varying``; ``setup`` takes the first problem that accepts
    all that varies.  ``takes_any``: whether any finite response can be fitted, so that the family need not be asked.
    ``harmless`` (n,) is a response to stand in lanes that are refused, unless the problem is ``forgiving``: no numbers
    stop it.  ``rows_of_theta``, ``polished`` and ``steady`` are those of ``lanes.advance``.  ``temporaries``: arrays as
    large as a lane's data that an evaluation has at hand.
    ``library``: which of "data", "start", "evaluate" and "found" call the library's routines for many matrices: two
    such programs at once wait for each other for ever on a CPU (``pool.LIBRARY``).  Where it is "evaluate", one worker
    must do, whose batches XLA spreads over the cores.
    """

    @property
    def accepts(self) -> frozenset[str]: ...
    @property
    def takes_any(self) -> bool: ...
    @property
    def harmless(self) -> Any: ...
    @property
    def forgiving(self) -> bool: ...
    @property
    def polished(self) -> bool: ...
    @property
    def steady(self) -> float: ...
    @property
    def rows_of_theta(self) -> list: ...
    @property
    def library(self) -> frozenset[str]: ...
    @property
    def temporaries(self) -> int: ...

    def data(self, own: Varying) -> Any:
        """The data of lanes, from what they have of their own, the lanes last."""
        ...

    def refuse(self, own: Varying) -> Array:
        """(L,) a ``Status`` for lanes that cannot be fitted, -1 for the others."""
        ...

    def start(self, data: Any) -> Array:
        """(m, L) where the search begins when nothing better is known."""
        ...

    def prepare(self, theta: Array, data: Any) -> Any:
        """What ``evaluate`` at theta (m, L) may begin with, in the form of what it keeps."""
        ...

    def guess(self, theta: Array) -> Array:
        """A first Hessian (m, m, L) at theta (m, L), for a problem whose ``evaluate`` gives none."""
        ...

    def evaluate(self, theta: Array, data: Any, kept: Any) -> Value: ...

    def doubtful(self, s: Lanes) -> Array:
        """(L,) whether a search that has ended there should be made once more."""
        ...

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        """Where a further search begins, from where the last one has ended: theta (m, L), what is kept, and the number
        of the search (L,)."""
        ...

    def outcome(self, s: Lanes, data: Any) -> Any:
        """What ``found`` needs of lanes that have ended: a pytree with the lanes last."""
        ...

    def found(self, outcome: Any) -> Found: ...

    def residual(self, data: Any) -> Any:
        """(L,) or (), of a linear model alone: what r² is divided by for σ², n less the columns of X by REML."""
        ...


def original_theta(theta: Array, arrays: Any, T: Any = None) -> tuple[Array, tuple[Array, ...]]:
    """theta (m, L) as to Z_s -> theta in the data's columns, rectified, and the factors (q, q, L).  ``T`` (q, q, L) of
    each factor, where the change of columns is the lane's own."""
    s = arrays.structure
    T = [t[:, :, None] for t in map(jnp.asarray, arrays.T)] if T is None else T
    widths = list(s.chain) + [q for _, q in s.rest]
    lams = [jnp.zeros((q, q, theta.shape[-1]), theta.dtype) for q in widths]
    out: list[Any] = []
    for term, at, own in zip(s.terms, s.slices(), arrays.inputs, strict=True):
        inside = slice(term.at, term.at + term.covariance.q)
        lam = term.covariance.lam(theta[at], own)
        moved = lower(jnp.sum(T[term.position][inside, inside][:, :, None] * lam[None], axis=1))
        survives = term.covariance.closed_under != "none"
        out.append(term.covariance.from_lower(moved, own) if survives else theta[at])
        lams[term.position] = lams[term.position].at[inside, inside].set(moved)
    return jnp.concatenate([*out, theta[s.num_random :]]), tuple(lams)
