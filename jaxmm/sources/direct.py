"""Simulated Gaussian responses without the responses: what a fit needs of y is drawn at once.

In the whitened columns of ``lanes.closed_form``, y = Xβ + Zb + e with b ~ N(0, D), e ~ N(0, σ²) has, apart from Xβ,

    level        B_y ~ N(0, K'DK + σ²P),  P the identity on the directions that the level has
    pattern      R of its other ν levels ~ Wishart(K'DK + σ²P, ν)        (Bartlett 1933: F A A'F', A triangular)
    within       X_w'e ~ N(0, σ² X_w'X_w),   y_w'y_w = e'X_w (X_w'X_w)^+ X_w'e + σ² χ²_df

all independent, so that the cost of a replicate does not depend on the number of rows, and in a balanced design not on
the number of levels either.  The distribution is exact; the numbers are not those of ``Simulated``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._keywords import SIMULATING, known_keywords
from jaxmm._random import as_key, normals_of, replicate_words, threefry, words
from jaxmm._types import Array
from jaxmm.errors import check_alike
from jaxmm.gram import Gram
from jaxmm.lanes.closed_form import BlockData, Blocks, can_have_blocks
from jaxmm.lanes.entrywise import cholesky
from jaxmm.prepared import Prepared
from jaxmm.sources.draw import check_n
from jaxmm.sources.responses import Responses, Varying, fingerprint, unfitted
from jaxmm.sources.truth import as_truth

TRIES = (
    8  # of the rejection sampler of a χ²: all fail with a probability of 1e-10 for 2 degrees of freedom, 1e-18 for 20
)


class DirectlySimulated(Responses):
    """Fits of simulated responses of a linear model with one grouping factor, without drawing the responses: a source
    for ``fit_many``, much faster than ``Simulated`` where the design is balanced or has many rows.

    Args:
        model: a linear model of one grouping factor.
        truth: a ``Truth``, or what ``as_truth`` takes.
        n: number of replicates, below 2^32.
        key: a seed, a whole number, or a JAX key. Replicate k depends on it and on k alone.

    Raises:
        ValueError: a model for which the statistics have no such form, with the remedy.

    Example:
        >>> mm.fit_many(fit, mm.DirectlySimulated(fit.model, fit, 4, key=1), progress=False).fixef.shape
        (4, 2)
    """

    endless, trusted = True, True
    varies = frozenset({"statistics"})

    @known_keywords(SIMULATING)
    def __init__(self, model: Prepared, truth: Any, n: int, key: Any):
        check_alike(model, "a draw of statistics without responses, DirectlySimulated,")
        self.n, self._key = check_n(n), words(as_key(key))
        model = unfitted(model)
        if not model.likelihood.precisions or not can_have_blocks(model.structure):
            raise ValueError(
                "statistics are drawn directly for a linear model of one grouping factor with few effects and columns: "
                "use Simulated"
            )
        self.truth = as_truth(model, truth)
        self.model, self.design = model, design_of(model)

    def check(self, model: Prepared) -> None:
        """Raises ValueError where ``model`` has another design than that of the statistics."""
        if self.design != design_of(model):
            raise ValueError("the statistics are drawn for another design than the model's: give them this model")

    def block(self, first: int, size: int) -> Varying:
        """Replicates first .. first + size - 1."""
        return Varying(statistics=Drawn(self.words(first, size), self.parameters()))

    def identity(self) -> dict[str, Any]:
        """What tells these responses from others."""
        t = self.truth
        return {
            "responses": "simulated directly",
            "n": self.n,
            "key": [int(x) for x in self._key],
            "truth": fingerprint(t.beta, *t.lams, t.sigma),
            "design": self.design,
        }

    def parameters(self) -> tuple[np.ndarray, np.ndarray, float]:
        """beta as to X_s, the factor of D as to Z_s, and sigma."""
        gram = self.model.arrays
        assert isinstance(gram, Gram)
        beta = np.linalg.solve(np.asarray(gram.T_X), self.truth.beta) if len(self.truth.beta) else self.truth.beta
        return beta, np.linalg.solve(np.asarray(gram.T[0]), self.truth.lams[0]), self.truth.sigma

    def words(self, first: int, size: int) -> tuple[Array, Array]:
        """Two keys for each of the replicates ``first`` .. ``first + size - 1``."""
        effects, response = replicate_words(self._key, first, size)
        return effects, response


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """Statistics that are yet to be drawn: ``keys``, two for each lane (L, 2), and ``parameters`` of
    ``DirectlySimulated``."""

    keys: tuple[Array, Array]
    parameters: Any

    def data(self, shared: Blocks) -> BlockData:
        """The data of lanes."""
        return draw_statistics(self.keys, self.parameters, shared)


def design_of(model: Prepared, *more: np.ndarray | None) -> str:
    """A hash of what of the rows statistics depend on, and of ``more`` of them where there is any."""
    d = model.design
    rows = [x for x in (d.weights, *more) if x is not None]
    return fingerprint(d.X, *(t.Z for t in d.terms), *(f.codes for f in d.factors), *rows)


def draw_statistics(keys: tuple[Array, Array], parameters: Any, shared: Blocks) -> BlockData:
    """The data of lanes, one for each of the keys (L, 2)."""
    beta, lam, sigma = parameters
    q, R = shared.K.shape[1:]
    p, L = len(beta), len(keys[0])
    there = (jnp.sum(shared.K**2, axis=0) > 0).astype(lam.dtype)  # (q, R): the directions that a level has
    spread = jnp.einsum("abr,ac->bcr", shared.K, lam)  # K'λ
    covariance = jnp.einsum("bcr,dcr->bdr", spread, spread) + sigma**2 * jnp.eye(q)[:, :, None] * there
    F = cholesky(covariance)  # (q, q, R)
    has_rest = shared.rotate is not None
    drawn = normals_of(keys[0], q * R + p + (q * q * R if has_rest else 0)).T
    at = q * R
    z = drawn[:at].reshape(q, R, L)
    b = jnp.einsum("abr,brl->arl", F, z)
    rest = None
    chi = _Chi(keys[1])
    if has_rest:
        A = drawn[at + p :].reshape(q, q, R, L) * jnp.tril(jnp.ones((q, q)), -1)[:, :, None, None]
        diagonal = [jnp.sqrt(chi.squared(jnp.maximum(shared.others - a, 1.0))) for a in range(q)]
        for a in range(q):
            A = A.at[a, a].set(diagonal[a])
        FA = jnp.einsum("abr,bcrl->acrl", F, A)
        rest = FA * (shared.others > 0)[:, None]
    g = drawn[at : at + p] * (jnp.sum(shared.root**2, axis=0) > 0)[:, None]
    xy = sigma * shared.root @ g
    yy = sigma**2 * (jnp.sum(g * g, axis=0) + chi.squared(shared.df[None])[0])
    return BlockData(b, rest, xy, yy, jnp.broadcast_to(beta[:, None], (p, L)))


class _Chi:
    """χ² numbers, each draw from other counters of the same keys."""

    def __init__(self, keys: Array):
        self.keys, self.use = keys, 0

    def squared(self, df: Array) -> Array:
        """(k, L) χ² with ``df`` (k,) >= 1 degrees of freedom.

        By Marsaglia & Tsang (2000, ACM Trans. Math. Softw. 26(3)): d v with v = (1 + x/√(9 d))³, d = df/2 - 1/3, of the
        first of a few candidates that is accepted.  Below df = 2 of df + 2, times U^(2/df).
        """
        k, L = len(df), len(self.keys)
        zero = jnp.zeros(L, jnp.uint32)
        own = jnp.stack(threefry(self.keys[:, 0], self.keys[:, 1], zero + self.use, zero), axis=1)
        self.use += 1
        x = normals_of(own, 3 * TRIES * k + k).T
        shape = (0.5 * df + jnp.where(df < 2, 1.0, 0.0))[:, None]
        d = shape - 1 / 3
        c = 1 / jnp.sqrt(9 * d)
        out = jnp.zeros((k, L), x.dtype)
        accepted = jnp.zeros((k, L), bool)
        for i in range(TRIES):
            z, e1, e2 = (x[(3 * i + j) * k : (3 * i + j + 1) * k] for j in range(3))
            v = (1 + c * z) ** 3
            minus_log_u = 0.5 * (e1 * e1 + e2 * e2)  # exponential
            good = (v > 0) & (-minus_log_u < 0.5 * z * z + d - d * v + d * jnp.log(jnp.where(v > 0, v, 1.0)))
            out = jnp.where(~accepted & (good | (i == TRIES - 1)), 2 * d * jnp.abs(v), out)
            accepted = accepted | good
        last = x[3 * TRIES * k :]
        uniform = 0.5 * jax.scipy.special.erfc(last / jnp.sqrt(2.0))
        return jnp.where((df < 2)[:, None], out * uniform ** (2 / df[:, None]), out)
