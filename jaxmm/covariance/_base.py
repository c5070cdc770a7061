"""What a covariance structure of random effects is: theta -> lam, a factor of D = sigma^2 lam lam'.

A structure is one small class.  ``factor`` is the one defining method: any smooth map from theta, which has no bounds,
to a square matrix.  Standard deviations, correlations, starts, whether D is singular and which covariances exist are
derived from it.  Where D is singular, theta is an ordinary finite point: D is never inverted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Closed = Literal["linear", "diagonal", "scalar", "none"]
FITTING = 60  # Gauss-Newton steps of ``from_lower``: half the error each where D is singular
STARTS = (1.0, 0.3, -0.3)  # of theta in it; the first times the size of the effects


@dataclass(frozen=True)
class Covariance(ABC):
    """A structure for ``q`` effects.  Instances are hashable: they are static in compiled programs.

    One of your own needs a ``name``, ``num_params`` and ``factor``, and may say more:

    Attributes:
        closed_under: the changes Z -> ZT that it survives, D -> T^-1 D T^-T being one of its own again: any invertible
            T ("linear"), another unit for each effect ("diagonal"), one unit for all ("scalar"), or "none", which is
            always right.  A search works in columns changed that far.
        triangular: ``factor`` gives a lower triangular matrix.
        levels: the effects must be the levels of one factor, in their order.
        free_form: each variance and covariance that it has is free.  Where they depend on each other the likelihood may
            well have several maxima, and is searched from further starts.
        takes_inputs: ``factor`` has a use of ``at``.
        positional: ``covariance`` gives that of any list of positions, ``at`` (k, d, ..) -> (k, k, ..), whatever q is.
            Where ``levels`` hold these are whole numbers, the places in the order.
        ordered: the positions are one number each, and increase.
        known: ``at`` is a root of a known matrix (q, q), which a formula names after the bar.
        options: further fields of the class, whole numbers that a formula may give, ``rr(0 + f | g, d = 2)``.
        absolute: D is lam lam' itself, also in a linear model, where it is relative to sigma² otherwise.
        lanes: ``factor`` and ``from_lower`` take NumPy arrays as well as JAX's, and any axes after those named.

    Where it needs to know more than theta (times, positions, a known matrix) it gets that as ``at``: an array of the
    term, the same for all levels.
    """

    q: int
    name: ClassVar[str]
    closed_under: ClassVar[Closed] = "none"
    triangular: ClassVar[bool] = False
    levels: ClassVar[bool] = False
    free_form: ClassVar[bool] = False
    takes_inputs: ClassVar[bool] = True
    lanes: ClassVar[bool] = False
    positional: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    known: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    absolute: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_params(self) -> int:
        """m, how many numbers theta has."""

    @property
    def restricted(self) -> bool:
        """Whether its variances and covariances depend on each other."""
        return self.q > 1 and not self.free_form

    @property
    def rank(self) -> int:
        """That of D, where no variance is zero and no correlation one."""
        return self.q

    @property
    def amiss(self) -> str | None:
        """What its options say that ``q`` effects cannot have, with the remedy; None where there is nothing."""
        return None

    @abstractmethod
    def factor(self, theta: Any, at: Any = None) -> Any:
        """lam (q, q) at theta (m,), by JAX's functions; see ``lanes``."""

    # ------------------------------------------------------------ derived; a structure may know better
    def lam(self, theta: Any, at: Any = None) -> Any:
        """lam (q, q, ..) at theta (m, ..), an array of NumPy or of JAX as theta is."""
        if self.lanes:
            return self.factor(theta, at)
        return each(lambda t: self.factor(t, at), theta, 1, at)

    def beside_sigma(self) -> Covariance:
        """The structure where lam lam' is relative to a sigma that is estimated: of an ``absolute`` one that whose
        theta has log sigma."""
        return self

    def log_sigma(self, theta: Any) -> Any:
        """What theta (m, ..) says of sigma, where ``beside_sigma`` has it there."""
        raise NotImplementedError(f"theta of {self.name} has no sigma")

    def covariance(self, theta: Any, at: Any = None) -> Any:
        """lam lam' (q, q, ..) at theta (m, ..)."""
        return product(self.lam(theta, at))

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        """theta (m, ..) of a lower triangular factor (q, q, ..) with a diagonal >= 0: of the D nearest to lam lam'
        where that is not one of the structure's own.

        By Gauss-Newton steps, damped while they do not lead lower, from a few starts.
        """
        return each(lambda L: _nearest(L, self, at), lam, 2, at)

    def from_factor(self, lam: Any, at: Any = None) -> Any:
        """theta (m,) of any square factor lam (q, q), as ``from_lower``."""
        return self.from_lower(lower(lam), at)

    def changed(self, theta: Any, T: Any, at: Any = None) -> Any:
        """theta (m,) of T lam, where T (q, q) is a change that the structure survives."""
        return self.from_factor(T @ self.lam(theta, at), at)

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """(k, ..) not negative, one of which is zero where D is singular and the structure has others that are not: the
        diagonal of the lower triangular factor, for one."""
        lam = self.lam(theta, at)
        xp = namespace(lam)
        L = lam if self.triangular else lower(lam)
        return xp.abs(xp.stack([L[k, k] for k in range(self.q)]))

    def derivative(self, theta: np.ndarray, at: Any = None) -> np.ndarray:
        """(m, q, q) of lam by each element of theta (m,); on the host."""
        return np.moveaxis(each(jax.jacfwd(lambda t: self.factor(t, at)), np.asarray(theta, float), 1, at), -1, 0)

    @property
    def scale_power(self) -> np.ndarray:
        """(m,) the powers of theta's elements that D is made of: 2 of a standard deviation, 4 of its root, and 0 of
        what only says how effects are correlated.  D is c² times itself where each is multiplied by c^(2 / power)."""
        return np.full(self.num_params, 2)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        """What theta says beside the size of the first effect's standard deviation, named for people: by default the
        others' over it, where they differ, and the correlations that are there."""
        D = np.asarray(self.covariance(np.asarray(theta, float)))
        sd = np.sqrt(np.diag(D))
        R = D / np.outer(sd, sd)
        pairs = [(k, l) for l in range(self.q) for k in range(l) if R[l, k] != 0]
        return sd_ratios(sd, effects) | {f"cor {effects[k]}.{effects[l]}": float(R[l, k]) for k, l in pairs}

    def variance_rows(self) -> list[np.ndarray]:
        """Where each row of lam stands in theta, if there are several numbers: their sum of squares is a variance."""
        return []

    def free(self, at: Any = None) -> np.ndarray:
        """(q, q) True on the diagonal and where the structure has a covariance: what of D may differ from zero."""
        draws = np.random.default_rng(0).normal([[1.0], [0.3], [-1.0]], 0.3, (3, self.num_params))
        rows = [lam / np.linalg.norm(lam, axis=1, keepdims=True) for lam in (self.lam(theta, at) for theta in draws)]
        return np.any([np.abs(r @ r.T) > 1e-12 for r in rows], axis=0) | np.eye(self.q, dtype=bool)


def namespace(x: Any) -> Any:
    """numpy of a NumPy array or number, else jax.numpy."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def product(lam: Any) -> Any:
    """lam lam' (q, q, ..), without an array of q³."""
    if lam.ndim == 2:
        return lam @ lam.T
    if isinstance(lam, np.ndarray):
        return np.einsum("ik...,jk...->ij...", lam, lam)
    return jnp.sum(lam[:, None] * lam[None], axis=2)  # which a compiler fuses


def sd_ratios(sd: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
    """Standard deviations (q,) over the first, named; nothing where they are all the same."""
    ratio = sd / sd[0]
    return {} if np.allclose(ratio, 1) else {f"sd ratio {e}": float(x) for e, x in zip(effects, ratio, strict=True)}


def moments(lam: Any) -> tuple[Any, Any, Any]:
    """Of D = lam lam' the standard deviations (q, ..), D itself (q, q, ..) and the root of the mean variance (..)."""
    xp = namespace(lam)
    D = product(lam)
    variances = xp.sum(lam * lam, axis=1)
    return xp.sqrt(variances), D, xp.sqrt(xp.mean(variances, axis=0))


@lru_cache(maxsize=64)
def lower_cells(q: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a lower triangle (q, q), column by column.  In 32 bits: of 64, JAX takes an
    array that it has looked at in one precision for what it was there."""
    columns, rows = (x.astype(np.int32) for x in np.triu_indices(q))  # of the upper one row by row, transposed
    return rows, columns


def fill(q: int, cells: tuple[np.ndarray, ...], theta: Any) -> Any:
    """(q, q, ..) with theta (m, ..) in the cells (rows, columns), and zeros."""
    shape = (q, q, *theta.shape[1:])
    if isinstance(theta, np.ndarray):
        lam = np.zeros(shape, theta.dtype)
        lam[cells] = theta
        return lam
    return jnp.zeros(shape, theta.dtype).at[cells].set(theta)


def lower(lam: Any) -> Any:
    """L (q, q, ..) lower triangular with LL' = lam lam' and a diagonal >= 0, for any square lam, singular too.

    By QR, or where there are lanes by ``gram_schmidt``.
    """
    if lam.ndim > 2:
        return gram_schmidt(lam)
    xp = namespace(lam)
    L = xp.linalg.qr(lam.T, mode="r").T
    return L * xp.where(xp.diagonal(L) < 0, -1.0, 1.0)


def gram_schmidt(lam: Any) -> Any:
    """lam = LQ by making each row (.., lanes) orthogonal to those before it, twice: L (q, q, ..)."""
    xp = namespace(lam)
    q = len(lam)
    directions: list[Any] = []
    rows = []
    for i in range(q):
        row, own = lam[i], [xp.zeros_like(lam[0, 0])] * q
        for _ in range(2):
            for k, d in enumerate(directions):
                c = xp.sum(row * d, axis=0)
                own[k] = own[k] + c
                row = row - c * d
        length = xp.sqrt(xp.sum(row * row, axis=0))
        size = xp.sqrt(xp.sum(lam[i] * lam[i], axis=0))
        real = length > 1e-14 * size
        own[i] = xp.where(real, length, 0.0)
        directions.append(xp.where(real, row / xp.where(real, length, 1.0), 0.0))
        rows.append(xp.stack(own))
    return xp.stack(rows)


def each(f: Callable[[Any], Any], x: Any, axes: int, at: Any) -> Any:
    """f of x for each place on the axes after the first ``axes``, which stay last.  Of a NumPy array it is one again,
    in float64, unless ``at`` is being traced."""
    if isinstance(x, np.ndarray) and not isinstance(at, Tracer):
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            return np.array(each(f, jnp.asarray(x, float), axes, at))
    x = jnp.asarray(x)
    if x.ndim == axes:
        return f(x)
    out = jax.vmap(f, -1, -1)(x.reshape(*x.shape[:axes], -1))
    return out.reshape(*out.shape[:-1], *x.shape[axes:])


@partial(jax.jit, static_argnums=1)
def _nearest(L: Any, structure: Covariance, at: Any) -> Any:
    """theta (m,) whose D is nearest to LL'."""
    D = L @ L.T
    size = jnp.sqrt(jnp.mean(jnp.diagonal(D)) + 1e-300)
    unit = jnp.max(jnp.diagonal(D)) + 1e-300

    def residual(theta):
        lam = structure.factor(theta, at)
        return ((lam @ lam.T - D) / unit).ravel()

    m = structure.num_params
    first = jnp.stack([jnp.full(m, 1.0, L.dtype) * (size if k == 0 else x) for k, x in enumerate(STARTS)])
    return least_squares(residual, first, FITTING)


def least_squares(residual: Callable[[Any], Any], first: Any, steps: int) -> Any:
    """x (m,) of the least sum of squares of ``residual``, by so many ``steps`` of Levenberg and Marquardt's method from
    each of the ``first`` (S, m)."""

    def step(_, state):
        x, damping = state
        r, J = residual(x), jax.jacfwd(residual)(x)
        A = J.T @ J
        shift = (damping + 1e-30) * (jnp.diagonal(A) + 1e-12 * jnp.trace(A) + 1e-200)
        new = x - jnp.linalg.solve(A + jnp.diag(shift), J.T @ r)
        better = jnp.sum(residual(new) ** 2) < jnp.sum(r**2)
        return jnp.where(better, new, x), jnp.where(better, 0.1, 10.0) * damping

    def search(x):
        x, _ = jax.lax.fori_loop(0, steps, step, (x, jnp.asarray(1e-3, x.dtype)))
        return x, jnp.sum(residual(x) ** 2)

    found, left = jax.vmap(search)(first)
    return found[jnp.argmin(jnp.where(jnp.isfinite(left), left, jnp.inf))]
