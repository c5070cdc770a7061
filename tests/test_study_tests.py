"""Tests in studies by name: each replicate's p is that of its own single fit, or of plain algebra."""

import numpy as np
import pytest

import jaxmm as mm
from jaxmm.sources.drawn_fits import DrawnFromFits
from jaxmm.studies.hypotheses import without
from jaxmm.studies.named_tests import NAMED, as_tests

N = 5
FORMULA = "y ~ arm + v + (1 | s)"
TRUTH = {"fixef": {"(Intercept)": 1.0, "armb": 0.7, "armc": 0.0, "v": 0.3}, "sd": {"s": 1.0}, "sigma": 0.8}
MECHANISM = mm.Mechanism(missing=mm.missing.Dropout(0.25, "s", "v"), columns={"v": mm.draws.Normal(1.0, 1.0)})


@pytest.fixture(scope="module")
def table():
    return mm.make_design({"s": 9}, within={"v": [0, 1, 2]}, between={"s": {"arm": ["a", "b", "c"]}})


@pytest.fixture(scope="module")
def model(table):
    return mm.plan(FORMULA, table)


@pytest.fixture(scope="module")
def found(model):
    tests = [*as_tests(model, list(NAMED)[:5], ["arm", "v"]), mm.BootstrapLRT(("armb", "armc"), n=19)]
    tests.append(mm.SignFlip(("armb", "armc"), n=99))
    return mm.study(model, TRUTH, N, key=1, mechanism=MECHANISM, tests=tests, progress=False)


@pytest.fixture(scope="module")
def tables(model, table):
    """The rows of each replicate."""
    own, columns = mm.Simulated(model, TRUTH, N, 1, mechanism=MECHANISM).mechanised.block(0, N)
    return [table.assign(y=own.y[k], v=columns["v"][k])[own.weights[k] > 0] for k in range(N)]


@pytest.mark.parametrize("ddf, name", [("satterthwaite", "Satterthwaite"), ("kenward-roger", "Kenward-Roger")])
def test_p_values_are_those_of_single_fits(found, tables, ddf, name):
    for k in range(N):
        fit = mm.lmm(FORMULA, tables[k])
        joint = fit.test(["armb = 0", "armc = 0"], ddf=ddf)
        assert found.p_values[name, ("armb", "armc")][k] == pytest.approx(joint.p, abs=1e-5)
        assert found.p_values[name, ("v",)][k] == pytest.approx(fit.coef_table(ddf).loc["v", "p"], abs=1e-5)


def test_each_test_stands_in_the_table(found):
    assert found.tests["test"].tolist() == [
        "Wald z", "Wald z", "Wald z", "Satterthwaite", "Satterthwaite", "Kenward-Roger", "Kenward-Roger",
        "Kenward-Roger, linear", "Kenward-Roger, linear",
        "likelihood ratio", "likelihood ratio", "bootstrap", "permutation",
    ]  # fmt: skip
    assert (found.tests["n"] == N).all()


def test_the_bootstrap_counts_refits_of_its_null_fit(model, found, tables):
    null = found.fits.nulls["armb", "armc"]
    small = without(model.by_ml(), ("armb", "armc"))
    drawn = DrawnFromFits(small, null, found.fits.responses(small), 19, 7)
    y, places = drawn.block(19, 19).y, drawn.places(18, 3)
    assert places.tolist() == [0, 1, 1] and np.array_equal(drawn.block(30, 2).y, y[11:13])
    weights = drawn.block(19, 1).weights[0]
    assert weights.sum() == len(tables[1])
    p = found.p_values["bootstrap", ("armb", "armc")]
    assert np.all(np.isclose(p * 20, np.round(p * 20))) and p.min() >= 1 / 20


def test_draws_of_a_fit_have_its_moments(model):
    fits = mm.fit_many(model, mm.Simulated(model, TRUTH, 2, 1), progress=False)
    n = 4000
    y = DrawnFromFits(model, fits, mm.Simulated(model, TRUTH, 2, 1), n, 3).block(n, n).y
    d, b = model.design, fits[1]
    codes = d.factors[0].codes
    V = b.varcorr().sd["s"].iloc[0] ** 2 * (codes[:, None] == codes) + b.sigma**2 * np.eye(len(d.y))
    np.testing.assert_allclose(y.mean(axis=0), d.X @ fits.fixef[1], atol=5 * np.sqrt(V.max() / n))
    np.testing.assert_allclose(np.cov(y.T), V, atol=6 * V.max() / np.sqrt(n))


def test_sign_flips_are_those_of_dense_algebra(model, found, tables):
    for k in range(2):
        null = found.fits.nulls["armb", "armc"][k]
        rows = mm.Model.from_formula(FORMULA, tables[k], reml=False).design
        tested = np.array([c in ("armb", "armc") for c in rows.columns])
        x, X0, codes = rows.X[:, tested], rows.X[:, ~tested], rows.factors[0].codes
        V = null.varcorr().sd["s"].iloc[0] ** 2 * (codes[:, None] == codes) + null.sigma**2 * np.eye(len(codes))
        inverse = np.linalg.inv(V)
        M = np.linalg.inv(X0.T @ inverse @ X0)
        left = x - X0 @ M @ X0.T @ inverse @ x
        r = rows.y - X0 @ null.fixef.to_numpy()
        residual = V - X0 @ M @ X0.T
        signs = np.array([[1, *(1 - 2 * ((j >> np.arange(8)) & 1))] for j in range(256)])
        T = []
        for sign in signs:
            A = inverse @ (left * sign[codes][:, None])
            T.append((A.T @ r) @ np.linalg.pinv(A.T @ residual @ A, 1e-9) @ (A.T @ r))
        p = mm.SignFlip(("armb", "armc"), n=255).p_values(found.fits)["armb", "armc"]
        assert p[k] == pytest.approx(np.mean(np.array(T) >= T[0] * (1 - 1e-9)))


def test_random_signs_depend_on_the_key_and_the_replicate_alone(found):
    test = mm.SignFlip(("armb", "armc"), n=19, key=5)
    assert np.array_equal(*(test.p_values(found.fits)["armb", "armc"] for _ in range(2)))


def test_power_takes_the_names(model):
    found = mm.power(model, TRUTH, 3, key=1, test="v", method="kenward-roger", mechanism=MECHANISM, progress=False)
    assert found.table["test"].tolist() == ["Kenward-Roger"]


def test_tests_that_make_no_sense(model, table):
    def asked(model=model, truth=TRUTH, **options):
        return mm.study(model, truth, 2, key=1, progress=False, **options)

    with pytest.raises(ValueError, match=r"no test 'wald'; there are 'z', 'satterthwaite', 'kenward-roger', 'kenw"):
        asked(tests=["wald"])
    with pytest.raises(TypeError, match=r"tests must be names or objects such as mm\.WaldZ"):
        asked(tests=[mm.WaldZ])
    with pytest.raises(ValueError, match="of= is for tests by name"):
        asked(of="v")
    with pytest.raises(ValueError, match="no coefficient and no term 'w'"):
        asked(tests=["z"], of="w")
    with pytest.raises(ValueError, match="KenwardRoger is for fits by REML"):
        asked(model.by_ml(), tests=["kenward-roger"])
    with pytest.raises(TypeError, match="key must be a seed"):
        mm.SignFlip(("v",), key=1.5)
    with pytest.raises(ValueError, match="n of BootstrapLRT must be a number of draws, at least 19"):
        mm.BootstrapLRT(("v",), n=9)
    counts = mm.plan("y ~ arm + (1 | s)", table, "poisson")
    truth = {"fixef": [0.0, 0.0, 0.0], "sd": {"s": 1.0}}
    for name in ("satterthwaite", "kenward-roger", "permutation"):
        with pytest.raises(ValueError, match="is for linear mixed models"):
            asked(counts, truth, tests=[name])
    crossed = mm.plan("y ~ arm + (1 | s) + (1 | v)", table)
    with pytest.raises(ValueError, match="SignFlip needs independent groups, and 's' is crossed with 'v'"):
        truth = {"fixef": [0.0, 0.0, 0.0], "sd": {"s": 1.0, "v": 1.0}, "sigma": 1.0}
        asked(crossed, truth, tests=["permutation"])
