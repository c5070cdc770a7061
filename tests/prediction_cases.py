"""Data, models and dense algebra of the tests of predictions."""

from functools import cache

import jax
import numpy as np
import pandas as pd
from scipy import special

import jaxmm as mm

KEY = jax.random.key(4)
Q = special.ndtri(0.975)
NORMAL = {"ddf": "asymptotic"}


@cache
def table() -> pd.DataFrame:
    """Ten levels of g within four of s, crossed with six of h; precisions and an offset; few and uneven rows."""
    rng = np.random.default_rng(5)
    n = 140
    g = rng.integers(0, 10, n)
    data = pd.DataFrame({"g": [f"g{k}" for k in g], "s": [f"s{k}" for k in g % 4], "h": rng.integers(0, 6, n)})
    data["x"], data["w"], data["o"] = rng.normal(size=n), rng.uniform(0.5, 3, n), rng.normal(size=n)
    b = rng.normal(size=(10, 2)) @ [[1.2, 0.4], [0, 0.9]]
    eta = (
        1
        + 0.5 * data["x"]
        + b[g, 0]
        + b[g, 1] * data["x"]
        + 2 * rng.normal(size=4)[g % 4]
        + rng.normal(size=6)[data["h"]]
    )
    data["y"] = eta + data["o"] + rng.normal(size=n) / np.sqrt(data["w"])
    data["count"] = rng.poisson(np.exp(0.4 * eta))
    return data


LINEAR = {
    "slopes": ("y ~ x + (x | g)", {"weights": "w"}),
    "apart": ("y ~ x + (1 | g) + (0 + x | g)", {}),
    "nested": ("y ~ x + (1 | s/g)", {"weights": "w", "offset": "o"}),
    "crossed": ("y ~ x + (x | g) + (1 | h)", {"weights": "w", "offset": "o"}),
    "all": ("y ~ x + (1 | s) + (x | g) + (x | h)", {"reml": False, "weights": "w"}),
}


@cache
def fitted(name: str) -> mm.Fit:
    formula, options = LINEAR[name]
    return mm.lmm(formula, table(), **options)


def expanded(fit: mm.Fit, factors=None) -> np.ndarray:
    """Z (n, Q), factor by factor in the design's order, level by level."""
    d, blocks = fit.model.design, []
    for f, factor in enumerate(d.factors):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        full = np.zeros((len(d.y), len(factor.levels), Z.shape[1]))
        full[np.arange(len(d.y)), factor.codes] = Z
        blocks.append(full.reshape(len(d.y), -1))
    return np.hstack(blocks)


def prior(fit: mm.Fit) -> np.ndarray:
    """D of all effects (Q, Q), in the same order."""
    blocks = [np.kron(np.eye(len(f.levels)), fit.varcorr().cov[f.name]) for f in fit.model.design.factors]
    ends = np.cumsum([0] + [len(b) for b in blocks])
    out = np.zeros((ends[-1], ends[-1]))
    for at, b in zip(ends, blocks, strict=False):
        out[at : at + len(b), at : at + len(b)] = b
    return out


def t_of(frame: pd.DataFrame, se) -> np.ndarray:
    """The quantile that an interval was made with."""
    return ((frame["upper"] - frame["lower"]) / 2 / se).to_numpy()


GENERALISED = {"crossed": "count ~ x + (x | g) + (1 | h)", "one": "count ~ x + (1 | g)"}


@cache
def counts(name: str, family: str = "poisson") -> mm.Fit:
    return mm.glmm(GENERALISED[name], table(), family)
