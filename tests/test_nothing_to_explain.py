"""A response of which nothing is left: a single fit refuses it, and the same lane of a batch says NO_VARIATION."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.optimize import Status

RANDOM = ["(1 | g)", "(x | g)", "(1 | g) + (1 | h)"]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    d = pd.DataFrame({"g": g, "h": h, "x": rng.normal(size=96), "o": rng.normal(size=96), "w": rng.uniform(0.5, 2, 96)})
    d["y"] = d.o + rng.normal(size=96) + rng.normal(size=12)[g]
    d["k"], d["a"] = rng.poisson(3, 96).astype(float), rng.gamma(3, 1, 96)
    d["share"] = (rng.random(96) < 0.5).astype(float)
    return d


def responses(d, offset):
    o = d.o.to_numpy() if offset else np.zeros(96)
    return {
        "constant": np.full(96, 3.0),
        "zero": np.zeros(96),
        "large constant": np.full(96, 1e6 + 0.1),
        "the offset": o,
        "columns and offset": 1e3 + 2 * d.x.to_numpy() + o,
        "columns": 1.3 + 0.7 * d.x.to_numpy(),
        "its levels": o + np.sin(d.g.to_numpy()),
        "nearly": 1e3 + 2 * d.x.to_numpy() + o + 1e-6 * d.y.to_numpy(),
    }


def both(model, y):
    """Whether a single fit refuses it, and the status of a lane."""
    batch = mm.fit_many(model, np.stack([y, np.asarray(model.design.y)]), progress=False)
    assert batch.converged[1]
    try:
        model.with_response(y).fit()
    except mm.DataError as error:
        assert "nothing to explain" in str(error) or "reproduce the response 'y' exactly" in str(error)
        return True, batch[0].status
    return False, batch[0].status


@pytest.mark.parametrize("offset", [None, "o"])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("random", RANDOM)
def test_linear_models(table, random, weights, offset):
    model = mm.Model.from_formula(f"y ~ x + {random}", table, weights=weights, offset=offset)
    refused = {}
    for name, y in responses(table, offset).items():
        refused[name], status = both(model, y)
        assert refused[name] == (status == Status.NO_VARIATION), name
    expected = {name: name not in ("columns", "its levels", "nearly") for name in refused} | {"columns": offset is None}
    assert refused == expected


def test_the_message_names_offset_and_remedy(table):
    d = table.assign(y=1 + table.o + 2 * table.x)
    with pytest.raises(
        mm.DataError, match=r"fixed effects and the offset reproduce the response 'y' exactly: .*leave out"
    ):
        mm.lmm("y ~ x + (1 | g)", d, offset="o")
    with pytest.raises(mm.DataError, match="the fixed effects reproduce the response 'y' exactly"):
        mm.lmm("y ~ x + o + (1 | g)", d)


@pytest.mark.parametrize("offset", [None, "o"])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize(
    ("column", "family", "constant"),
    [
        ("y", "gaussian", {2.0: True}),
        ("k", "poisson", {0.0: True, 3.0: False}),
        ("k", "nbinom2", {0.0: True, 3.0: False}),
        ("a", mm.families.Gamma("log"), {2.0: True}),
        ("share", "binomial", {0.0: True, 1.0: True}),
    ],
)
def test_generalised_models(table, column, family, constant, weights, offset):
    """A constant count above zero is a rate like any other."""
    model = mm.Model.from_formula(f"{column} ~ x + (1 | g)", table, family, weights=weights, offset=offset)
    for value, refused in constant.items():
        assert both(model, np.full(96, value))[0] == refused
        assert (both(model, np.full(96, value))[1] == Status.NO_VARIATION) == refused
