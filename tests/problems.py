"""Small seeded data sets, one per structure of the random effects, all as plain arrays.

``PROBLEMS`` maps a name to a ``Problem``; a new structure is tested everywhere once it stands there.  The levels
carry labels in no order, and the rows are shuffled, so that no test passes because codes happen to be sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import jaxmm as mm


@dataclass(frozen=True)
class Problem:
    """The arguments of ``Model.from_arrays``, and ``sparse`` where the coupling to the rest is forced one way.

    ``solver`` is what the model must say of itself; ``chain`` and ``rest`` the names of the factors, in order.
    """

    name: str
    y: np.ndarray
    X: np.ndarray
    terms: tuple[mm.Term, ...]
    chain: tuple[str, ...]
    rest: tuple[str, ...] = ()
    sparse: bool | None = None
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None
    reml: bool = True

    @property
    def solver(self) -> str:
        return "Schur complement" if self.rest else "nested chain" if len(self.chain) > 1 else "blocks"


def labels(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Text labels whose order is not that of the codes."""
    names = rng.permutation(codes.max() + 1)
    return np.array([f"level {k}" for k in names])[codes]


def uneven(rng: np.random.Generator, levels: int, n: int) -> np.ndarray:
    """n codes, each level at least once, in random order."""
    return rng.permutation(np.concatenate([np.arange(levels), rng.integers(0, levels, n - levels)]))


def covariates(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    """An intercept and p - 1 columns of mixed size and mean."""
    columns = [rng.normal(size=n) * 10.0 ** rng.integers(-1, 2) + rng.normal() for _ in range(p - 1)]
    return np.column_stack([np.ones(n), *columns])


def response(rng: np.random.Generator, X: np.ndarray, terms: tuple[mm.Term, ...]) -> np.ndarray:
    """Xβ + Zb + noise, with random effects about as large as the noise."""
    y = X @ rng.normal(size=X.shape[1]) + rng.normal(size=len(X))
    for term in terms:
        Z = np.reshape(term.Z, (len(X), -1))
        levels, codes = np.unique(term.codes, return_inverse=True)
        b = rng.normal(size=(len(levels), Z.shape[1])) / np.sqrt(np.mean(Z**2, axis=0))
        y = y + np.sum(Z * b[codes], axis=1)
    return y


def _one_factor(q: int, kind: str = "us", *, seed: int, n: int) -> Problem:
    rng = np.random.default_rng(seed)
    X = covariates(rng, n, max(q, 2))
    g = labels(rng, uneven(rng, 8, n))
    terms = (mm.Term(X[:, :q], g, "g", kind=kind),)
    name = f"one factor, q = {q}" if kind == "us" else f"one factor, {kind}, q = {q}"
    return Problem(name, response(rng, X, terms), X, terms, ("g",))


def _nested(levels: int, *, seed: int) -> Problem:
    """School > class (> pupil): innermost intercepts, slopes one level up."""
    rng = np.random.default_rng(seed)
    n = 72
    inner = uneven(rng, 24 if levels == 3 else 12, n)
    X = covariates(rng, n, 2)
    names, q = ("pupil", "class", "school")[3 - levels :], (1, 2, 1)[3 - levels :]
    codes = [inner]
    for size in (12, 4)[3 - levels :]:
        parent = rng.permutation(np.arange(codes[-1].max() + 1) % size)
        codes.append(parent[codes[-1]])
    terms = tuple(mm.Term(X[:, :k], labels(rng, c), g) for k, c, g in zip(q, codes, names, strict=True))
    # outermost first: the order of the formula does not matter
    return Problem(f"nested, {levels} levels", response(rng, X, terms), X, terms[::-1], names)


def _crossed(q: tuple[int, int], sparse: bool, *, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    n = 60
    X = covariates(rng, n, 2)
    subject, item = labels(rng, uneven(rng, 9, n)), labels(rng, uneven(rng, 6, n))
    terms = (mm.Term(X[:, : q[1]], item, "item"), mm.Term(X[:, : q[0]], subject, "subject"))
    name = f"crossed, q = {q[0]} and {q[1]}, {'cells' if sparse else 'dense border'}"
    return Problem(name, response(rng, X, terms), X, terms, ("subject",), ("item",), sparse)


def _chain_and_rest(sparse: bool, *, seed: int) -> Problem:
    """class in school, crossed with item (slopes) and day; two columns of X beside the intercept."""
    rng = np.random.default_rng(seed)
    n = 90
    X = covariates(rng, n, 3)
    inner, item, day = uneven(rng, 12, n), uneven(rng, 5, n), uneven(rng, 3, n)
    terms = (
        mm.Term(X[:, 0], labels(rng, day), "day"),
        mm.Term(X[:, 0], labels(rng, inner % 4), "school"),
        mm.Term(X[:, :2], labels(rng, item), "item"),
        mm.Term(X[:, [0, 2]], labels(rng, inner), "class"),
    )
    name = f"chain and two crossed, {'cells' if sparse else 'dense border'}"
    return Problem(name, response(rng, X, terms), X, terms, ("class", "school"), ("item", "day"), sparse)


def _several_terms(*, seed: int) -> Problem:
    """(1 | g) + (0 + a | g) + (b + c || h): two terms on one factor, a diagonal one on a crossed one."""
    rng = np.random.default_rng(seed)
    n = 70
    X = covariates(rng, n, 4)
    g, h = labels(rng, uneven(rng, 9, n)), labels(rng, uneven(rng, 4, n))
    terms = (mm.Term(X[:, 0], g, "g"), mm.Term(X[:, 2:], h, "h", kind="diag"), mm.Term(X[:, 1], g, "g"))
    return Problem("several terms per factor", response(rng, X, terms), X, terms, ("g",), ("h",))


def _weighted(*, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    n = 50
    X = covariates(rng, n, 2)
    g, h = labels(rng, uneven(rng, 8, n)), labels(rng, uneven(rng, 5, n))
    terms = (mm.Term(X, g, "g"), mm.Term(X[:, 0], h, "h"))
    offset = rng.normal(size=n)
    y = response(rng, X, terms) + offset
    weights = rng.uniform(0.2, 5.0, n)
    return Problem("weights and offset", y, X, terms, ("g",), ("h",), weights=weights, offset=offset)


def _no_fixed_effects(*, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    n = 40
    terms = (mm.Term(np.ones(n), labels(rng, uneven(rng, 8, n)), "g"),)
    X = np.zeros((n, 0))
    return Problem("no fixed effects", response(rng, X, terms), X, terms, ("g",))


_ALL = (
    _one_factor(1, seed=1, n=30),
    _one_factor(2, seed=2, n=40),
    _one_factor(4, seed=3, n=70),
    _one_factor(3, "diag", seed=4, n=50),
    _nested(2, seed=5),
    _nested(3, seed=6),
    _crossed((1, 1), False, seed=7),
    _crossed((2, 2), True, seed=8),
    _chain_and_rest(False, seed=9),
    _chain_and_rest(True, seed=9),
    _several_terms(seed=10),
    _weighted(seed=11),
    _no_fixed_effects(seed=12),
)
PROBLEMS: dict[str, Problem] = {p.name: p for p in _ALL}
