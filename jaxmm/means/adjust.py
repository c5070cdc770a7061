"""A family of m contrasts → p-values and intervals that hold for all of them at once.

With |t_i| and df ν of each contrast, k the means that were compared, R (m, m) the correlations of rank r:

    none          p = 2 T_ν(-|t|)
    tukey         P(Q_{k,ν} > √2 |t|), Q the studentized range: exact for all pairs of equally precise means
    dunnett       w P(Q_{κ,ν} > √2 |t|) + (1 - w) (1 - (1 - p)^m), w = (m - 1)/m, κ = (1 + √(1 + 8m))/2: the
                  approximation that R's emmeans calls dunnettx; "mvt" has the distribution itself
    mvt           P(max_i |T_i| > |t|), T multivariate t with correlations R, by quasi-Monte Carlo
    sidak         1 - (1 - p)^m                     bonferroni   m p
    scheffe       P(F_{r,ν} > t²/r)                 holm, fdr    see ``results.multiplicity``

The range of k normal variables has the upper tail

    P(W > w) = k ∫ φ(z) {Φ(z)^(k-1) - [Φ(z) - Φ(z - w)]^(k-1)} dz

which loses no digits however small it is; Q is W over √(χ²_ν/ν), integrated in the logarithm of that root.  Both
integrands are analytic and fall to nothing, so that the trapezoidal rule converges exponentially (Trefethen & Weideman
2014, SIAM Rev. 56, 385-458).

For mvt let T = ρ A d with A (m, r) a root of R, d uniform on the sphere in r dimensions and ρ²/r ~ F_{r,ν}.  Then

    P(max |T_i| > c) = E_d P(F_{r,ν} > (c / max_i |a_i d|)² / r)

an average over directions of a continuous function, the radius integrated exactly (Deák 1980, Numer. Math. 35, 35-60;
Genz & Bretz 2009, Computation of Multivariate Normal and t Probabilities, ch. 4): a singular R is no obstacle, and a
small p keeps its relative error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import chdtrc, fdtrc, gammaln, ndtr, ndtri, stdtr, stdtrit

from jaxmm.results import multiplicity

NORMAL = 1e6  # degrees of freedom from which a t distribution is a normal one
RANK = 1e-9  # of the largest eigenvalue of R
POINTS, SHIFTS = 8192, 12  # of Sobol's directions, and how often they are shifted
BINS = 1000  # in which the directions of a shift are gathered


# ---------------------------------------------------------------- the studentized range
def _range_tail(w: np.ndarray, k: float) -> np.ndarray:
    """P(W > w) of the range of k standard normal variables, w (n,)."""
    z = np.arange(-9.0, 9.0 + float(np.max(w, initial=0.0)) / 2, 0.2)[:, None]
    inner = ndtr(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log1p(-np.minimum(ndtr(z - w) / inner, 1.0))
        lost = -np.expm1((k - 1) * share)
    value = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * inner ** (k - 1) * np.where(np.isnan(lost), 0.0, lost)
    return np.minimum(0.2 * k * value.sum(axis=0), 1.0)


def range_tail(q: float, k: float, df: float) -> float:
    """P(Q > q) of the studentized range of k means with df degrees of freedom; k need not be whole."""
    if not (np.isfinite(q) and k > 1 and df > 0):
        return 0.0 if q == np.inf else np.nan
    if q <= 0:
        return 1.0
    if df >= NORMAL:
        return float(_range_tail(np.array([q]), k)[0])
    step = min(0.05, 0.25 / np.sqrt(2 * df))
    low = -(40 / df + np.sqrt(40 / df)) - np.log1p(q)
    high = 0.5 * np.log1p(80 / df + np.sqrt(80 / df) * 2)
    x = np.arange(low, high, step)  # log of s = √(χ²/ν)
    log_density = np.log(2) + df / 2 * np.log(df / 2) - gammaln(df / 2) + df * x - df / 2 * np.exp(2 * x)
    mass = step * np.exp(log_density)
    used = mass > 1e-40
    return float(np.minimum(np.sum(mass[used] * _range_tail(q * np.exp(x[used]), k)), 1.0))


# ---------------------------------------------------------------- the largest of correlated t
@dataclass(frozen=True, eq=False)
class Largest:
    """The distribution of max |T_i|, of rank ``r``: ``mass`` (SHIFTS, b) of the directions by their ``reach``
    max_i |a_i d| (SHIFTS, b), in narrow bins with the mean of each."""

    reach: np.ndarray
    mass: np.ndarray
    r: int

    def tail(self, c: float, df: float) -> tuple[float, float]:
        """P(max > c), and its standard error."""
        with np.errstate(divide="ignore"):
            F = (c / self.reach) ** 2
        p = chdtrc(self.r, F) if df >= NORMAL else fdtrc(self.r, df, F / self.r)
        each = np.sum(self.mass * p, axis=1)
        return float(np.mean(each)), float(np.std(each, ddof=1) / np.sqrt(len(each)))


def largest(R: np.ndarray) -> Largest:
    """That of the correlations R (m, m), singular or not; the same directions at every call."""
    w, Q = np.linalg.eigh(R)
    kept = w > RANK * w[-1]
    A = Q[:, kept] * np.sqrt(w[kept])
    r = A.shape[1]
    if r == 1:
        return Largest(np.full((2, 1), np.max(np.abs(A))), np.ones((2, 1)), 1)
    from scipy.stats import qmc

    dims = r - 1 if r < 4 else r
    points = qmc.Sobol(dims, scramble=False).random(POINTS)
    shifts = np.random.default_rng(20260101).uniform(size=(SHIFTS, dims))
    found = [_binned(np.max(np.abs(_directions((points + s) % 1.0, r) @ A.T), axis=1)) for s in shifts]
    return Largest(np.stack([reach for reach, _ in found]), np.stack([mass for _, mass in found]), r)


def _binned(reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values -> bins: means and shares. What is smooth in them has the same mean but for the square of the width."""
    low, width = np.min(reach), max(np.ptp(reach), 1e-300) / BINS
    place = np.minimum((reach - low) / width, BINS - 1).astype(int)
    count = np.bincount(place, minlength=BINS)
    mean = np.bincount(place, reach, BINS) / np.maximum(count, 1)
    return np.where(count > 0, mean, 1.0), count / len(reach)


def _directions(u: np.ndarray, r: int) -> np.ndarray:
    """Points of the unit cube → of the sphere in r dimensions, uniform as they are."""
    if r < 4:
        angle = 2 * np.pi * u[:, 0]
        z = 2 * u[:, 1] - 1 if r == 3 else np.zeros(len(u))
        flat = np.sqrt(1 - z * z)
        return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], axis=1)[:, :r]
    d = ndtri(np.clip(u, 1e-15, 1 - 1e-15))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


# ---------------------------------------------------------------- families
@dataclass(frozen=True, eq=False)
class Family:
    """``t`` and ``df`` (m,) of the contrasts, ``k`` the means behind them, ``R`` (m, m) their correlations."""

    t: np.ndarray
    df: np.ndarray
    k: int
    R: np.ndarray

    @property
    def m(self) -> int:
        return len(self.t)

    @cached_property
    def single(self) -> np.ndarray:
        """p of each by itself."""
        return 2 * stdtr(self.df, -np.abs(self.t))

    @cached_property
    def rank(self) -> int:
        w = np.linalg.eigvalsh(self.R)
        return int(np.sum(w > RANK * w[-1]))

    @cached_property
    def largest(self) -> Largest:
        return largest(self.R)


Tail = Callable[[Family, float, float], float]  # P of something beyond c with df


def _tukey(f: Family, c: float, df: float) -> float:
    return range_tail(np.sqrt(2) * c, f.k, df)


def _sidak(f: Family, c: float, df: float) -> float:
    p = min(2 * float(stdtr(df, -c)), 1.0)
    return float(-np.expm1(f.m * np.log1p(-p))) if p < 1 else 1.0


def _dunnett(f: Family, c: float, df: float) -> float:
    share = (f.m - 1) / f.m
    wide = range_tail(np.sqrt(2) * c, (1 + np.sqrt(1 + 8 * f.m)) / 2, df) if f.m > 1 else 0.0
    return share * wide + (1 - share) * _sidak(f, c, df)


def _mvt(f: Family, c: float, df: float) -> float:
    return f.largest.tail(c, df)[0]


def _scheffe(f: Family, c: float, df: float) -> float:
    return float(chdtrc(f.rank, c * c) if df >= NORMAL else fdtrc(f.rank, df, c * c / f.rank))


def _bonferroni(f: Family, c: float, df: float) -> float:
    return min(f.m * 2 * float(stdtr(df, -c)), 1.0)


def _none(f: Family, c: float, df: float) -> float:
    return 2 * float(stdtr(df, -c))


TAILS: dict[str, Tail] = {
    "tukey": _tukey, "dunnett": _dunnett, "mvt": _mvt, "sidak": _sidak, "scheffe": _scheffe, "bonferroni": _bonferroni,
    "none": _none,
}  # fmt: skip
STEPWISE = {"holm": "holm", "fdr": "fdr_bh"}  # p-values by their order: no interval belongs to them
METHODS = ("tukey", "dunnett", "mvt", "sidak", "scheffe", "holm", "bonferroni", "fdr", "none")
ALIASES = {"dunnettx": "dunnett", "bh": "fdr", "fdr_bh": "fdr"}


def method(name: str | None) -> str:
    """The name of an adjustment as ``METHODS`` has it.

    Raises:
        ValueError: another one.
    """
    asked = "none" if name is None else name.lower() if isinstance(name, str) else name
    asked = ALIASES.get(asked, asked) if isinstance(asked, str) else asked
    if asked not in METHODS:
        raise ValueError(f"adjust must be one of {', '.join(map(repr, METHODS))}, not {name!r}")
    return asked


def p_values(family: Family, adjust: str) -> np.ndarray:
    """(m,) adjusted; NaN where a contrast has no t, which is then not counted."""
    out = np.full(family.m, np.nan)
    f, told = _told(family)
    if not f.m:
        return out
    if adjust in STEPWISE:
        out[told] = multiplicity.adjust(f.single, STEPWISE[adjust])
    else:
        out[told] = [TAILS[adjust](f, abs(t), nu) for t, nu in zip(f.t, f.df, strict=True)]
    return out


def error(family: Family, adjust: str) -> float:
    """The largest standard error of the p-values: of quasi-Monte Carlo, else 0."""
    f, _ = _told(family)
    if adjust != "mvt" or not f.m:
        return 0.0
    return max(f.largest.tail(abs(t), nu)[1] for t, nu in zip(f.t, f.df, strict=True))


def critical(family: Family, adjust: str, level: float) -> np.ndarray:
    """(m,) the c with which all of estimate ± c se hold at once; Bonferroni's for the stepwise adjustments."""
    out = np.full(family.m, np.nan)
    f, told = _told(family)
    if not f.m:
        return out
    name = "bonferroni" if adjust in STEPWISE else adjust
    found = {nu: _solve(lambda c, nu=nu: TAILS[name](f, c, nu), 1 - level, nu) for nu in set(f.df.tolist())}
    out[told] = [found[nu] for nu in f.df.tolist()]
    return out


def counted(family: Family) -> int:
    """How many contrasts an adjustment counts: those that have a t."""
    return _told(family)[0].m


def _told(family: Family) -> tuple[Family, np.ndarray]:
    told = np.isfinite(family.t) & ~np.isnan(family.df) & (family.df > 0)
    if told.all():
        return family, told
    return Family(family.t[told], family.df[told], family.k, family.R[np.ix_(told, told)]), told


def _solve(tail: Callable[[float], float], alpha: float, df: float) -> float:
    """c with tail(c) = alpha."""
    from scipy.optimize import brentq

    low = float(stdtrit(df, 1 - alpha / 2)) * (1 - 1e-9)  # a single t: no adjustment is less
    high = low * 1.5 + 1
    while tail(high) > alpha:
        low, high = high, 2 * high
    return brentq(lambda c: np.log(tail(c) / alpha), low, high, xtol=1e-10)  # pyright: ignore
