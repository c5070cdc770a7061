"""A table with covariates, a factor and two grouping factors, and designs of it."""

import numpy as np
import pandas as pd

from jaxmm.design import Design, build
from jaxmm.design.formula import parse


def make(formula, data, **arguments) -> Design:
    return build(parse(formula), data, **arguments)


def design_frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 24
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z": rng.uniform(1, 2, size=n),
            "f": np.tile(["a", "b", "c"], 8),
            "g": np.repeat(np.arange(6), 4),
            "h": np.tile(["u", "v"], 12),
            "w": np.ones(n),
        }
    )
