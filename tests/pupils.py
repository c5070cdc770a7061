"""The table of the tests of bad input."""

import numpy as np
import pandas as pd

N = 60


def pupils() -> pd.DataFrame:
    """60 pupils of 12 schools, and columns of other kinds: text, dates, constants."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "score": rng.normal(size=N),
            "x": rng.normal(size=N),
            "t": rng.uniform(1, 2, N),
            "f": np.tile(list("abc"), N // 3),
            "school": np.repeat([f"s{i}" for i in range(12)], N // 12),
            "text": np.tile(["1.5", "2.5", "n/a"], N // 3),
            "digits": [f"{v}.5" for v in range(N)],
            "day": pd.date_range("2020-01-01", periods=N),
            "one": "only",
            "row": np.arange(N),
            "same": 3.5,
        }
    )
