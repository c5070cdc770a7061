"""Effects at positions, ``ou(0 + time | g)``, ``exp(pos(x, y) | g)``: against glmmTMB and other spellings."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

HERE = Path(__file__).parent / "reference"
REFERENCE = json.loads((HERE / "positions.json").read_text())
LINEAR = [key for key in REFERENCE if key not in ("glmmTMB",) and not key.startswith("poisson")]


@pytest.fixture(scope="module")
def data():
    return pd.read_csv(HERE / "positions.csv")


def check(fit, key):
    """As ``positions.R`` has it."""
    said = REFERENCE[key]
    block = fit.varcorr().blocks[0].cov
    sd = np.sqrt(np.diag(block))
    assert fit.converged and fit.loglik == pytest.approx(said["loglik"], abs=1e-6)
    np.testing.assert_allclose(fit.fixef, said["fixef"], atol=1e-4)
    np.testing.assert_allclose(sd, said["sd"], rtol=1e-3)
    np.testing.assert_allclose(block[0] / sd[0] / sd, said["cor"], atol=2e-3)


@pytest.mark.parametrize("key", LINEAR)
def test_linear_models_are_as_in_glmmtmb(data, key):
    check(mm.lmm(f"y ~ x + {key}", data, reml=False), key)


def test_a_poisson_model_is_as_in_glmmtmb(data):
    key = "poisson ou(0 + t | g)"
    check(mm.glmm(f"c ~ x + {key.removeprefix('poisson ')}", data, "poisson"), key)


def test_positions_of_columns(data):
    """Numbers, levels that are numbers in whatever order, and coordinates; names, and the same columns for new rows."""
    levels = data.t.map("{:g}".format).astype(pd.CategoricalDtype(["7.5", "4", "2", "1", "0"]))
    data = data.assign(level=levels, shuffled=data.g)
    numbers, named, plane, bare = (
        mm.Model.from_formula(f"y ~ x + {bar}", data)
        for bar in ("ou(0 + t | g)", "ou(0 + level | g)", "exp(0 + pos(px, py) | g)", "exp(pos(px, py) | g)")
    )
    a, b, c, d = (model.design.terms[0] for model in (numbers, named, plane, bare))
    assert a.effects == ("t0", "t1", "t2", "t4", "t7.5") and b.effects[-1] == "level7.5"
    assert c.effects[3] == "pos(px, py)(4, 1.5)" == d.effects[3]
    for other in (b, c, d):
        np.testing.assert_array_equal(a.Z, other.Z)
    np.testing.assert_array_equal(a.inputs, b.inputs)
    np.testing.assert_array_equal(a.inputs[:, 0], [0, 1, 2, 4, 7.5])
    np.testing.assert_array_equal(c.inputs, [[0, 0], [1, 0], [2, 1.5], [4, 1.5], [7.5, 1.5]])
    for model in (numbers, named, plane):
        fit = model.fit()
        np.testing.assert_allclose(fit.predict(data.tail(7)), fit.fitted().tail(7), rtol=1e-12)
        assert np.isnan(fit.predict(data.head(1).assign(t=np.nan, px=np.nan, level=None))).all()
        with pytest.raises(mm.DataError, match="which the fit has not seen; its levels are"):
            fit.predict(data.head(2).assign(t=9.0, px=9.0, level="9"))


def test_arrays_and_batches(data):
    times = np.array([0, 1, 2, 4, 7.5])
    model = mm.Model.from_formula("y ~ x + ou(0 + t | g)", data)
    term = mm.Term((data.t.to_numpy()[:, None] == times).astype(float), data.g.to_numpy(), kind="ou", at=times)
    arrays = mm.Model.from_arrays(data.y, model.design.X, [term])
    fit = model.fit()
    assert arrays.fit().deviance == pytest.approx(fit.deviance, abs=1e-9)
    Y = np.stack([data.y, np.random.default_rng(0).permutation(data.y)])
    batch = mm.fit_many(model, Y, progress=False)
    assert batch.deviance[0] == pytest.approx(fit.deviance, abs=1e-6) and batch.converged.all()
    assert batch.deviance[1] == pytest.approx(model.with_response(Y[1]).fit().deviance, abs=1e-5)


@pytest.mark.parametrize(
    ("bar", "said"),
    [
        ("ou(t | g)", r"those at the positions of one variable, and nothing else: ou\(0 \+ time \| g\)"),
        ("exp(0 + t + x | g)", r"or of coordinates exp\(0 \+ pos\(x, y\) \| g\)"),
        ("exp(0 + t:x | g)", "positions of one variable"),
        ("ou(0 + pos(px, py) | g)", r"'pos\(px, py\)' has 2 coordinates: take exp"),
        ("gau(0 + name | g)", r"'name' is a factor \(such as 'at 0'\): make a column of numbers of it, or take ar1"),
        ("exp(0 + same | g)", "the levels '01' and '1' of 'same' are one position"),
        ("exp(pos(name, px) | g)", r"pos\(name, px\): the first argument holds text"),
        ("exp(0 + far | g)", "'far' is infinite at row"),
    ],
)
def test_what_has_no_positions(data, bar, said):
    data = data.assign(name="at " + data.t.map("{:g}".format), far=np.where(data.t > 7, np.inf, data.t))
    data["same"] = np.where(data.t > 2, "01", "1")
    with pytest.raises(mm.DataError, match=said):
        mm.Model.from_formula(f"y ~ x + {bar}", data)


@pytest.mark.parametrize(
    ("kind", "at", "said"),
    [
        ("ou", None, r"the structure 'ou' needs at=, the positions of its effects: \(5,\) or \(5, d\)"),
        ("exp", np.zeros((4, 2)), r"has shape \(4, 2\), and must have \(5,\) or \(5, d\)"),
        ("ou", np.zeros((5, 2)), r"must have \(5,\)"),
        ("ou", [0, 2, 1, 3, 4], "must increase: order the columns of Z by their times"),
        ("gau", [0, 2, 1, 3, 2], "has a position twice"),
        ("gau", [0, 2, 1, 3, np.nan], "at of term 0 is not finite"),
    ],
)
def test_arrays_of_which_the_positions_are_amiss(data, kind, at, said):
    Z = (data.t.to_numpy()[:, None] == np.unique(data.t)).astype(float)
    with pytest.raises(mm.DataError, match=said):
        mm.Model.from_arrays(data.y, np.ones((len(data), 1)), [mm.Term(Z, data.g.to_numpy(), kind=kind, at=at)])
