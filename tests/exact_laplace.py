"""Small generalised models, and Laplace's -2 log-likelihood of them from its definition: dense matrices, textbook
densities and mpmath to 60 digits, nothing of the library in it.

``CASES`` of every family with every link on one factor, of a few families on every structure.  Differences of values
with so many digits are derivatives, exact to all that double precision can hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import jax
import mpmath as mp
import numpy as np

import jaxmm as mm
from jaxmm.families import FAMILIES
from jaxmm.families.tweedie import LARGEST
from jaxmm.rows import Rows

DIGITS = 60
STEP_ETA, STEP = mp.mpf(10) ** -14, mp.mpf(10) ** -8  # of the inner and of the outer differences


# ---------------------------------------------------------------- densities, with all constants
INVERSE = {
    "logit": lambda e: 1 / (1 + mp.exp(-e)),
    "probit": mp.ncdf,
    "cloglog": lambda e: 1 - mp.exp(-mp.exp(e)),
    "cauchit": lambda e: mp.atan(e) / mp.pi + mp.mpf(1) / 2,
    "log": mp.exp,
    "identity": lambda e: e,
    "inverse": lambda e: 1 / e,
    "sqrt": lambda e: e**2,
    "1/mu^2": lambda e: 1 / mp.sqrt(e),
}
log_gamma = cache(mp.loggamma)


def log_beta(a, b):
    return log_gamma(a) + log_gamma(b) - log_gamma(a + b)


def log_choose(n, y):
    return log_gamma(n + 1) - log_gamma(y + 1) - log_gamma(n - y + 1)


def _negative_binomial(y, size, mu):
    constant = log_gamma(y + size) - log_gamma(size) - log_gamma(y + 1)
    return constant + size * mp.log(size / (size + mu)) + y * mp.log(mu / (size + mu))


def _gamma(y, n, mu, phi):
    a = 1 / phi
    return a * mp.log(a / mu) + (a - 1) * mp.log(y) - a * y / mu - log_gamma(a)


def _inverse_gaussian(y, n, mu, phi):
    return -mp.log(2 * mp.pi * phi * y**3) / 2 - (y - mu) ** 2 / (2 * phi * mu**2 * y)


def _beta(y, n, mu, phi):
    a, b = mu * phi, (1 - mu) * phi
    return (a - 1) * mp.log(y) + (b - 1) * mp.log(1 - y) - log_beta(a, b)


def _betabinomial(y, n, mu, phi):
    a, b = mu * phi, (1 - mu) * phi
    return log_choose(n, y) + log_beta(y + a, n - y + b) - log_beta(a, b)


@cache
def _series(y, phi, q):
    """Of a Tweedie density, of the power 1 + q."""
    a = (1 - q) / q
    log_z = ((1 - q) * mp.log(y / q) - mp.log(phi)) / q - mp.log(1 - q)
    return mp.log(mp.fsum(mp.exp(j * log_z - log_gamma(mp.mpf(j + 1)) - log_gamma(a * j)) for j in range(1, 200)))


def _tweedie(y, n, mu, phi, raw):
    p = 1 + mp.mpf(LARGEST - 1) / (1 + mp.exp(-raw))
    kappa = mu ** (2 - p) / (2 - p)
    own = _series(y, phi, p - 1) - mp.log(y) - y * mu ** (1 - p) / ((p - 1) * phi) if y else 0
    return own - kappa / phi


def _student_t(y, n, mu, phi, raw):
    df = mp.exp(raw)
    constant = log_gamma((df + 1) / 2) - log_gamma(df / 2) - mp.log(mp.pi * df * phi) / 2
    return constant - (df + 1) / 2 * mp.log(1 + (y - mu) ** 2 / (df * phi))


def _above_zero(log_p):
    return lambda y, n, mu, phi: log_p(y, n, mu, phi) - mp.log(1 - mp.exp(log_p(mp.mpf(0), n, mu, phi)))


DENSITY = {
    "binomial": lambda y, n, mu, phi: log_choose(n, y) + y * mp.log(mu) + (n - y) * mp.log(1 - mu),
    "poisson": lambda y, n, mu, phi: y * mp.log(mu) - mu - log_gamma(y + 1),
    "gamma": _gamma,
    "inverse_gaussian": _inverse_gaussian,
    "nbinom1": lambda y, n, mu, phi: _negative_binomial(y, mu / phi, mu),
    "nbinom2": lambda y, n, mu, phi: _negative_binomial(y, phi, mu),
    "beta": _beta,
    "betabinomial": _betabinomial,
    "gaussian": lambda y, n, mu, phi: -((y - mu) ** 2) / (2 * phi) - mp.log(2 * mp.pi * phi) / 2,
    "tweedie": _tweedie,
    "student_t": _student_t,
}
DENSITY |= {f"truncated_{name}": _above_zero(DENSITY[name]) for name in ("poisson", "nbinom1", "nbinom2")}


# ---------------------------------------------------------------- the models
@dataclass(frozen=True, eq=False)
class Case:
    """A data set, its model and a point: parameters in the columns of the data, terms (Z, codes) in theta's order."""

    family: str
    link: str
    structure: str
    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    X: np.ndarray
    terms: tuple[tuple[np.ndarray, np.ndarray], ...]
    beta: np.ndarray
    theta: np.ndarray
    log_phi: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.family}-{self.link}, {self.structure}"

    @property
    def psi(self) -> np.ndarray:
        return np.concatenate([self.beta, self.theta, self.log_phi])

    @property
    def lams(self) -> list[np.ndarray]:
        return lams_of(self.theta, [Z.shape[1] for Z, _ in self.terms])

    def model(self, family=None, **changes) -> mm.Model:
        terms = [mm.Term(Z, codes, f"g{k}") for k, (Z, codes) in enumerate(self.terms)]
        family = FAMILIES[self.family](self.link) if family is None else family
        arguments = {"weights": self.weights, "offset": self.offset, **changes}
        if FAMILIES[self.family].has_trials:
            arguments.setdefault("trials", self.trials)
        return mm.Model.from_arrays(arguments.pop("y", self.y), self.X, terms, family, **arguments)

    def rows(self, family=None, **changes) -> Rows:
        with jax.enable_x64(True):
            return self.model(family, **changes).arrays


def lams_of(theta, widths: list[int]) -> list:
    """The lower triangles of theta, column after column."""
    out, values = [], iter(theta)
    for q in widths:
        lam = [[0.0] * q for _ in range(q)]
        for column in range(q):
            for row in range(column, q):
                lam[row][column] = next(values)
        out.append(lam)
    return out


# labels of the levels of each term, by row: no order, uneven numbers of rows
CODES = {
    "one factor": [[2, 0, 0, 1, 2, 0, 1, 0, 2]],
    "slopes": [[2, 0, 0, 1, 2, 0, 1, 0, 2]],
    "nested": [[3, 0, 2, 1, 0, 1, 3, 2, 0], [1, 0, 1, 0, 0, 0, 1, 1, 0]],
    "crossed": [[2, 0, 1, 1, 2, 0, 2, 0, 1], [0, 1, 1, 0, 1, 0, 1, 1, 1]],
}
POSITIVE = ("identity", "inverse", "sqrt", "1/mu^2")
LOG_PHI = {"gamma": -1.0, "gaussian": -0.7, "inverse_gaussian": -1.2, "beta": 1.2, "student_t": 0.8}  # 0.4 otherwise
EXTRAS = {name: family().start_constants(0) for name, family in FAMILIES.items()}  # as a search moves them
EXTRAS["student_t"] = (2.0,)  # with fewer degrees of freedom there is no mode that is one in every direction


def _responses(rng: np.random.Generator, family: str, mu: np.ndarray, trials: np.ndarray) -> np.ndarray:
    if FAMILIES[family].has_trials:
        return rng.binomial(trials.astype(int), mu).astype(float)
    if family == "beta":
        return rng.beta(4 * mu, 4 * (1 - mu))
    if family == "tweedie":
        return np.array([rng.gamma(k) if k else 0.0 for k in rng.poisson(mu)])
    if family in ("gamma", "inverse_gaussian"):
        return mu * rng.gamma(4.0, 0.25, len(mu))
    if family in ("gaussian", "student_t"):
        return mu + 0.5 * rng.normal(size=len(mu))
    return rng.poisson(mu).astype(float) + family.startswith("truncated")


@cache
def case(family: str, link: str, structure: str = "one factor") -> Case:
    rng = np.random.default_rng(3)
    codes = [np.array(c) for c in CODES[structure]]
    n = len(codes[0])
    X = np.column_stack([np.ones(n), rng.uniform(-1, 1, n)])
    terms = tuple((X if structure == "slopes" else X[:, :1], c) for c in codes)
    if link in POSITIVE:
        beta, size = np.array([1.6, 0.15]), 0.15
    elif family == "binomial" and link == "log":
        beta, size = np.array([-1.1, 0.2]), 0.2
    else:
        beta, size = np.array([0.5, -0.4]), 0.7
    theta = size * (np.array([1.0, -0.4, 0.8]) if structure == "slopes" else np.array([1.0, -0.7])[: len(codes)])
    offset = np.round(rng.uniform(-0.2, 0.2, n), 2)
    eta = X @ beta + offset
    for (Z, c), lam in zip(terms, lams_of(theta, [Z.shape[1] for Z, _ in terms]), strict=True):
        eta = eta + np.sum(Z * (0.7 * rng.normal(size=(c.max() + 1, Z.shape[1])) @ np.array(lam).T)[c], axis=1)
    mu = np.array([float(INVERSE[link](mp.mpf(float(e)))) for e in eta])
    trials = rng.integers(1, 6, n).astype(float)
    constants = np.append(np.full(FAMILIES[family].num_phi, LOG_PHI.get(family, 0.4)), EXTRAS[family])
    return Case(
        family, link, structure, _responses(rng, family, mu, trials), trials, rng.uniform(0.5, 2.0, n), offset, X,
        terms, beta, theta, constants,
    )  # fmt: skip


# ---------------------------------------------------------------- linear algebra on lists of mpmath's numbers
def _dot(a, b):
    return sum((x * y for x, y in zip(a, b, strict=True) if x), mp.mpf(0))


def _eliminate(M: list[list], right: list) -> tuple:
    """log|M| and M^-1 right for a positive definite M: Gauss, no pivots."""
    size, M, x, logdet = len(right), [list(row) for row in M], list(right), mp.mpf(0)
    for k in range(size):
        assert M[k][k] > 0, "M is not positive definite"
        logdet += mp.log(M[k][k])
        for i in range(k + 1, size):
            if factor := M[i][k] / M[k][k]:
                M[i] = [a - factor * b for a, b in zip(M[i], M[k], strict=True)]
                x[i] -= factor * x[k]
    for k in reversed(range(size)):
        x[k] = (x[k] - sum(M[k][i] * x[i] for i in range(k + 1, size))) / M[k][k]
    return logdet, x


class Laplace:
    """The objective of a case as a function of psi = (beta, theta, log phi), mpmath's numbers in and out."""

    def __init__(self, case: Case):
        self.case = case
        numbers = lambda x: [mp.mpf(float(v)) for v in x]  # noqa: E731
        self.y, self.trials, self.weights = numbers(case.y), numbers(case.trials), numbers(case.weights)
        self.offset, self.X = numbers(case.offset), [numbers(x) for x in case.X]
        self.Z = [[numbers(z) for z in Z] for Z, _ in case.terms]
        self.psi = numbers(case.psi)
        self.mode, self.start = None, None
        self.value = self(self.psi)
        self.start = self.mode  # of every point nearby

    def design(self, theta) -> list[list]:
        """ZΛ (n, Q), the levels of a term after one another."""
        rows = [[] for _ in self.y]
        lams = lams_of(theta, [Z.shape[1] for Z, _ in self.case.terms])
        for (_, codes), Z, lam in zip(self.case.terms, self.Z, lams, strict=True):
            for row, z, code in zip(rows, Z, codes, strict=True):
                own = [sum(z[a] * lam[a][b] for a in range(len(z))) for b in range(len(z))]
                for j in range(codes.max() + 1):
                    row.extend(own if j == code else [mp.mpf(0)] * len(own))
        return rows

    def density(self, i: int, eta, constants):
        mu = INVERSE[self.case.link](eta)
        return self.weights[i] * DENSITY[self.case.family](self.y[i], self.trials[i], mu, *constants)

    def terms(self, eta: list, constants) -> tuple[list, list, list]:
        """The log density of each row and two derivatives by eta."""
        h = STEP_ETA
        middle = [self.density(i, e, constants) for i, e in enumerate(eta)]
        above = [self.density(i, e + h, constants) for i, e in enumerate(eta)]
        below = [self.density(i, e - h, constants) for i, e in enumerate(eta)]
        first = [(a - b) / (2 * h) for a, b in zip(above, below, strict=True)]
        second = [(a - 2 * m + b) / h**2 for a, m, b in zip(above, middle, below, strict=True)]
        return middle, first, second

    def __call__(self, psi: list):
        p, m = len(self.case.beta), len(self.case.theta)
        beta, ZL = psi[:p], self.design(psi[p : p + m])
        phi = mp.exp(psi[p + m]) if FAMILIES[self.case.family].num_phi else mp.mpf(1)
        constants = phi, *psi[p + m + FAMILIES[self.case.family].num_phi :]
        fixed = [
            o + sum(x * b for x, b in zip(row, beta, strict=True)) for o, row in zip(self.offset, self.X, strict=True)
        ]
        size = len(ZL[0])
        u = self.start or [mp.mpf(0)] * size
        for _ in range(60):
            eta = [f + _dot(row, u) for f, row in zip(fixed, ZL, strict=True)]
            value, first, second = self.terms(eta, constants)
            M = [
                [sum(-d * r[a] * r[b] for d, r in zip(second, ZL, strict=True)) for b in range(size)]
                for a in range(size)
            ]
            for a in range(size):
                M[a][a] += 1
            slope = [sum(d * r[a] for d, r in zip(first, ZL, strict=True)) - u[a] for a in range(size)]
            logdet, step = _eliminate(M, slope)
            if max(abs(s) for s in step) < mp.mpf(10) ** -30:
                break
            u = [x + s for x, s in zip(u, step, strict=True)]
        else:
            raise ArithmeticError("no mode found")
        self.mode = u
        return sum(x * x for x in u) - 2 * sum(value) + logdet

    def modes(self) -> list[np.ndarray]:
        """û (q, J) of each term at psi."""
        out, at = [], 0
        for Z, codes in self.case.terms:
            q, J = Z.shape[1], codes.max() + 1
            out.append(np.array([float(x) for x in self.start[at : at + J * q]]).reshape(J, q).T)
            at += J * q
        return out

    def derivatives(self) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and Hessian at psi by differences of values."""
        d, f0 = len(self.psi), self.value

        def pair(*directions):
            move = [STEP if i in directions else mp.mpf(0) for i in range(d)]
            ends = ([x + s * e for x, e in zip(self.psi, move, strict=True)] for s in (1, -1))
            return tuple(self(x) for x in ends)

        ends = [pair(i) for i in range(d)]
        gradient = [(a - b) / (2 * STEP) for a, b in ends]
        bend = [a - 2 * f0 + b for a, b in ends]
        H = np.zeros((d, d))
        for i in range(d):
            H[i, i] = bend[i] / STEP**2
        for i, j in combinations(range(d), 2):
            a, b = pair(i, j)
            H[i, j] = H[j, i] = (a - 2 * f0 + b - bend[i] - bend[j]) / (2 * STEP**2)
        return np.array([float(x) for x in gradient]), H


@cache
def exact(family: str, link: str, structure: str = "one factor"):
    """Value, gradient, Hessian and modes of a case."""
    with mp.workdps(DIGITS):
        f = Laplace(case(family, link, structure))
        return float(f.value), *f.derivatives(), f.modes()
