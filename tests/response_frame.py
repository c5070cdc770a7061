"""A table with responses of many kinds, and designs of them."""

import helpers
import numpy as np
import pandas as pd

import jaxmm as mm
from jaxmm import families
from jaxmm.design import DataError, Design, build
from jaxmm.design.formula import parse
from jaxmm.design.from_arrays import design_from_arrays

N = 12
BINOMIAL, POISSON, GAMMA, BETA = (families.get(name) for name in ("binomial", "poisson", "gamma", "beta"))


def says(*parts: str):
    return helpers.says(DataError, *parts)


def make(response, data, family=BINOMIAL, **arguments) -> Design:
    return build(parse(f"{response} ~ x + (1 | g)"), data, family=family, **arguments)


def response_frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = rng.integers(2, 9, N)
    s = rng.binomial(n, 0.4)
    s[:2] = n[0], 0
    up = rng.uniform(size=N) > 0.5
    up[:2] = True, False
    return pd.DataFrame(
        {
            "up": up,
            "word": np.where(up, "yes", "no"),
            "s": s,
            "f": n - s,
            "n": n,
            "p": s / n,
            "count": rng.poisson(3.0, N),
            "time": rng.gamma(2.0, size=N),
            "x": rng.normal(size=N),
            "g": np.repeat(list("abcd"), 3),
            "w": rng.integers(1, 4, N).astype(float),
        },
        index=[f"r{i}" for i in range(N)],
    )


def arrays(y, family, trials=None, weights=None) -> Design:
    X, terms = np.ones((N, 1)), [mm.Term(np.ones(N), np.repeat(np.arange(4), 3))]
    return design_from_arrays(y, X, terms, weights, None, None, family, trials)
