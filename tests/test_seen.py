"""What a fit remembers of the columns behind its fixed effects."""

import numpy as np
import pandas as pd

from jaxmm.design import build
from jaxmm.design.formula import parse


def seen(formula: str, data: pd.DataFrame, **options):
    return build(parse(formula), data, **options).spec.seen


def data() -> pd.DataFrame:
    a = pd.Categorical(list("uvuvuvuvwx"), categories=list("xwvu"))
    x = [0.5, 1.5, 2.5, np.nan, 0.5, 1.5, 2.5, 3.5, 1.0, 2.0]
    return pd.DataFrame({
        "a": a, "x": x, "z": [0, 5] * 5, "day": [1, 2, 3, 1, 2, 3, 1, 2, 3, 1], "ok": [True, False] * 5,
        "g": list("ppppqqqqrr"), "y": np.arange(10.0), "w": [2.0] * 9 + [0.0],
    })  # fmt: skip


def test_levels_means_and_values_of_the_rows_that_count():
    s = seen("y ~ a + log(x) + z + ok + factor(day) + (1 | g)", data(), weights="w")
    assert list(s.columns) == ["a", "x", "z", "ok", "day"]
    assert list(s.columns["a"].labels) == ["w", "v", "u"]  # x has no weight; the order is the data's
    x = s.columns["x"]
    np.testing.assert_allclose([x.mean, x.low, x.high], [np.mean([0.5, 1.5, 2.5, 0.5, 1.5, 2.5, 3.5, 1]), 0.5, 3.5])
    assert x.size == 0 and list(s.columns["z"].values) == [0, 5] and list(s.columns["day"].values) == [1, 2, 3]
    assert s.columns["ok"].logical and s.discrete == ("a", "z", "ok", "day")


def test_how_often_levels_meet():
    whole = data().dropna()
    s = seen("y ~ a * z + (1 | g)", whole)
    counts = {
        (str(s.columns["a"].labels[i]), s.columns["z"].values[j]): c
        for (i, j), c in zip(s.codes, s.counts, strict=True)
    }
    assert counts == whole.groupby(["a", "z"], observed=True).size().to_dict()
    weighted = seen("y ~ a * z + (1 | g)", whole, weights="w")
    np.testing.assert_allclose(weighted.counts.sum(), whole["w"].sum())
    none = seen("y ~ x + (1 | g)", whole)
    assert none.codes.shape == (1, 0) and none.counts == [len(whole)]


def test_offsets_are_remembered_by_their_mean():
    whole = data().dropna()
    offset = np.linspace(1, 2, len(whole))
    s = seen("y ~ a + offset(log(x)) + (1 | g)", whole, offset=offset)
    np.testing.assert_allclose([s.offset, s.argument], [np.log(whole["x"]).mean() + 1.5, 1.5])
    assert "x" in s.columns and "w" in seen("y ~ a + (1 | g)", whole, offset="w").columns
