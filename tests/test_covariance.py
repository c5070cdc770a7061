"""Structures of covariance: what each must satisfy, and one of a user's own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import jaxmm as mm
from jaxmm import covariance
from jaxmm.covariance import STRUCTURES, Covariance
from jaxmm.covariance._base import fill, lower
from jaxmm.sources.truth import as_truth

EVERY = [(name, q) for name in STRUCTURES for q in (1, 2, 4)]
NEW = ("homdiag", "cs", "homcs", "ar1", "hetar1")


@pytest.mark.parametrize(("name", "q"), EVERY)
def test_a_factor_and_back(name, q):
    structure = covariance.get(name, q)
    theta = np.random.default_rng(q).normal(size=structure.num_params)
    lam = structure.factor(theta)
    D = lam @ lam.T
    back = structure.factor(structure.from_factor(lam))
    np.testing.assert_allclose(back @ back.T, D, atol=1e-12)
    np.testing.assert_allclose(np.asarray(jax.jit(structure.factor)(theta)), lam, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(structure.free(), np.abs(D) > 0)
    assert hash(structure) == hash(covariance.get(name, q))
    pivots = structure.pivots(theta)
    if structure.num_params:
        assert not np.any(structure.factor(0 * theta)) and not np.any(structure.pivots(0 * theta))
    if len(pivots) == structure.rank:
        assert np.prod(pivots) ** 2 == pytest.approx(np.prod(np.linalg.eigvalsh(D)[q - structure.rank :]), rel=1e-9)
    if structure.triangular:
        np.testing.assert_array_equal(lam, np.tril(lam))


@pytest.mark.parametrize(("name", "q"), EVERY)
def test_lanes_are_as_single_ones(name, q):
    structure = covariance.get(name, q)
    theta = np.random.default_rng(q).normal(size=(structure.num_params, 3))
    lams = structure.factor(theta)
    L = np.moveaxis([lower(lam) for lam in np.moveaxis(lams, -1, 0)], 0, -1)
    with jax.enable_x64(True):
        of_lanes = structure.from_lower(jnp.asarray(L)), structure.pivots(jnp.asarray(theta))
    for k in range(3):
        np.testing.assert_allclose(lams[..., k], structure.factor(theta[:, k]), atol=1e-15)
        np.testing.assert_allclose(structure.from_lower(L[..., k]), of_lanes[0][:, k], atol=1e-7)
        np.testing.assert_allclose(structure.pivots(theta[:, k]), of_lanes[1][:, k], atol=1e-13)


@pytest.mark.parametrize(("name", "q"), [(name, q) for name, q in EVERY if q == 4])
def test_the_derived_way_back(name, q):
    """That of ``Covariance``, which a structure may improve on, ends at a member exactly."""
    structure = covariance.get(name, q)
    lam = structure.factor(np.random.default_rng(q).normal(1, 0.3, size=structure.num_params))
    found = structure.factor(Covariance.from_lower(structure, lower(lam)))
    np.testing.assert_allclose(found @ found.T, lam @ lam.T, atol=1e-9)


@pytest.mark.parametrize(("name", "q"), [(name, q) for name, q in EVERY if q > 1])
def test_changes_that_a_structure_survives(name, q):
    structure, rng = covariance.get(name, q), np.random.default_rng(q)
    T = {"linear": rng.normal(size=(q, q)), "diagonal": np.diag(rng.uniform(0.5, 9, q)), "scalar": 7.0 * np.eye(q)}
    T["none"] = np.eye(q)
    lam = T[structure.closed_under] @ structure.factor(rng.normal(size=structure.num_params))
    found = structure.factor(structure.from_factor(lam))
    np.testing.assert_allclose(found @ found.T, lam @ lam.T, atol=1e-9)


def by_definition(name: str, sd: np.ndarray, rho: float) -> np.ndarray:
    q = len(sd)
    R = rho ** np.abs(np.subtract.outer(np.arange(q), np.arange(q))) if "ar1" in name else np.full((q, q), rho)
    R = np.eye(q) if "diag" in name else R
    np.fill_diagonal(R, 1.0)
    return (sd[:, None] * sd if name in ("cs", "hetar1") else sd[0] ** 2) * R


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("rho", [0.4, -0.3, 0.0, 1.0, "least"])
@pytest.mark.parametrize("sd", [(1.0, 2.0, 0.5), (0.0, 1.0, 2.0)])
def test_by_definition(name, rho, sd):
    """Also where D is singular."""
    rho = {"cs": -0.5, "homcs": -0.5}.get(name, -1.0) if rho == "least" else rho
    sd = np.array(sd) if name in ("cs", "hetar1") else np.array(sd[::-1])
    D = by_definition(name, sd, rho)
    w, Q = np.linalg.eigh(D)
    structure = covariance.get(name, 3)
    theta = structure.from_factor(Q * np.sqrt(np.maximum(w, 0.0)))
    lam = structure.factor(theta)
    np.testing.assert_allclose(lam @ lam.T, D, atol=1e-12)
    if np.linalg.matrix_rank(D, hermitian=True) < 3:
        assert structure.pivots(theta).min() < 1e-6


# ---------------------------------------------------------------- models
def table(rng: np.random.Generator, J: int = 40) -> pd.DataFrame:
    """Four visits of each of J levels, two rows each, some missing."""
    data = pd.DataFrame({"g": np.repeat(np.arange(J), 8), "visit": np.tile(np.repeat(list("abcd"), 2), J)})
    root = np.linalg.cholesky(by_definition("hetar1", np.array([1.0, 0.8, 0.6, 1.2]), 0.5))
    b = (rng.normal(size=(J, 4)) @ root.T).ravel()[np.repeat(np.arange(4 * J), 2)]
    data["x"] = rng.normal(size=8 * J)
    data["eta"] = 0.5 + 0.3 * data.x + 0.7 * b
    data["y"] = data.eta + 0.7 * rng.normal(size=8 * J)
    data["count"] = rng.poisson(np.exp(data.eta))
    return data.drop(index=[3, 17, 18, 40]).reset_index(drop=True)


def dense_deviance(parameters: np.ndarray, name: str, data: pd.DataFrame) -> float:
    """-2 log-likelihood, beta profiled out, of y ~ x + name(0 + visit | g); standard deviations as logarithms, ρ by a
    hyperbolic tangent onto its range."""
    heterogeneous = name in ("cs", "hetar1")
    sd = np.exp(parameters[1 : 5 if heterogeneous else 2])
    low = -1 / 3 if "cs" in name else -1.0
    rho = low + (1 - low) * (np.tanh(parameters[-1]) + 1) / 2
    D = by_definition(name, sd if heterogeneous else np.full(4, sd[0]), rho)
    X, y, total, logdet = np.column_stack([np.ones(len(data)), data.x]), data.y.to_numpy(), [], 0.0
    for _, rows in data.groupby("g"):
        Z = (rows.visit.to_numpy()[:, None] == np.array(list("abcd"))).astype(float)
        L = np.linalg.cholesky(Z @ D @ Z.T + np.exp(2 * parameters[0]) * np.eye(len(rows)))
        logdet += 2 * np.log(np.diag(L)).sum()
        total.append(np.linalg.solve(L, np.column_stack([X[rows.index], y[rows.index]])))
    whitened = np.vstack(total)
    residual = whitened[:, -1] - whitened[:, :-1] @ np.linalg.lstsq(whitened[:, :-1], whitened[:, -1])[0]
    return logdet + residual @ residual + len(y) * np.log(2 * np.pi)


@pytest.mark.parametrize("name", NEW)
def test_a_fit_is_the_maximum_of_the_dense_likelihood(name):
    data = table(np.random.default_rng(7))
    fit = mm.lmm(f"y ~ x + {name}(0 + visit | g)", data, reml=False)
    count = {"homdiag": 2, "homcs": 3, "ar1": 3}.get(name, 6)
    best = minimize(lambda p: dense_deviance(p, name, data), np.r_[np.zeros(count - 1), 0.3], method="BFGS")
    assert fit.converged and not fit.is_singular
    assert fit.deviance == pytest.approx(best.fun, abs=1e-6) and fit.deviance < best.fun + 1e-7
    D = fit.varcorr().blocks[0].cov
    sd = np.sqrt(np.diag(D))
    rho = 0.0 if name == "homdiag" else D[0, 1] / (sd[0] * sd[1])
    np.testing.assert_allclose(D, by_definition(name, sd, rho), rtol=1e-9)
    assert f"{name}" in repr(fit.model)


@pytest.mark.parametrize(("name", "family"), [("cs", None), ("hetar1", "poisson"), ("ar1", "gaussian")])
def test_lanes_are_as_single_fits(name, family):
    """And the fit of a generalised model that is linear is that of the linear one."""
    data, rng = table(np.random.default_rng(8)), np.random.default_rng(9)
    response = "count" if family == "poisson" else "y"
    of = None if family is None else mm.families.get(family)
    model = mm.Model.from_formula(f"{response} ~ x + {name}(0 + visit | g)", data, of)
    Y = np.stack([data[response], *(rng.permutation(data[response]) for _ in range(3))])
    batch = mm.fit_many(model, Y, progress=False)
    for k in range(len(Y)):
        fit = model.with_response(Y[k]).fit()
        assert batch.status[k] == fit.estimates.status and batch.is_singular[k] == fit.is_singular
        assert batch.deviance[k] == pytest.approx(fit.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.bse[k], fit.bse, rtol=1e-5)
        np.testing.assert_allclose(batch.varcorr_sd[k], np.sqrt(np.diag(fit.varcorr().blocks[0].cov)), atol=1e-3)
    if family == "gaussian":
        linear = mm.lmm(f"y ~ x + {name}(0 + visit | g)", data, reml=False)
        assert batch.deviance[0] == pytest.approx(linear.deviance, abs=1e-6)


def test_two_effects_of_any_covariance_are_compound_symmetric():
    data = mm.datasets.load("sleepstudy")
    fits = [mm.lmm(f"Reaction ~ Days + {kind}(Days | Subject)", data) for kind in ("us", "cs")]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-8)
    np.testing.assert_allclose(*(fit.varcorr().blocks[0].cov for fit in fits), rtol=1e-5)


def test_units_of_the_effects_do_not_matter():
    """Also where their columns have different sizes, and may be rescaled together only."""
    data = table(np.random.default_rng(10))
    Z = (data.visit.to_numpy()[:, None] == np.array(list("abcd"))) * np.array([1.0, 1.0, 1.0, 0.01])
    X, g = np.column_stack([np.ones(len(data)), data.x]), data.g.to_numpy()
    fits = [mm.Model.from_arrays(data.y, X, [mm.Term(unit * Z, g, kind="homcs")]).fit() for unit in (1.0, 1e-3)]
    assert fits[0].converged and fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-7)
    np.testing.assert_allclose(fits[1].theta, fits[0].theta * [1e3, 1.0], rtol=1e-4)  # no unit of the angle


def test_the_levels_of_one_factor():
    data = table(np.random.default_rng(11)).assign(time=lambda d: d.visit.map("abcd".index))
    for left in ("0 + time", "visit", "0 + visit + x"):
        with pytest.raises(mm.DataError, match=r"the effects of ar1\(...\) are the levels of one factor"):
            mm.Model.from_formula(f"y ~ x + ar1({left} | g)", data)
    a, b = (mm.Model.from_formula(f"y ~ x + ar1(0 + {t} | g)", data) for t in ("visit", "factor(time)"))
    np.testing.assert_array_equal(a.design.terms[0].Z, b.design.terms[0].Z)


def test_a_correlation_of_either_sign():
    """Where the likelihood has a maximum for either sign the higher one is found: ar1 contains the random intercept,
    and is never worse."""
    rng = np.random.default_rng(17)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 5), "t": np.tile(list("abcde"), 20), "x": rng.normal(size=100)})
    Y = np.array([0.5 * np.repeat(rng.normal(size=20), 5) + rng.normal(size=100) for _ in range(30)])
    bars = ("ar1(0 + t | g)", "(1 | g)")
    models = [mm.Model.from_formula(f"y ~ x + {bar}", data.assign(y=Y[0]), reml=False) for bar in bars]
    ar1, intercept = (mm.fit_many(m, Y, progress=False) for m in models)
    assert np.all(ar1.deviance < intercept.deviance + 1e-6) and ar1.converged.all()
    for k in range(4):
        fit = models[0].with_response(Y[k]).fit()
        assert fit.deviance == pytest.approx(ar1.deviance[k], abs=1e-4) and fit.estimates.status == ar1.status[k]


def test_truths_that_a_structure_cannot_have():
    model = mm.Model.from_formula("y ~ x + ar1(0 + visit | g)", table(np.random.default_rng(14)))
    D = by_definition("ar1", np.full(4, 2.0), 0.5)
    truth = {"fixef": [1.0, 0.3], "sd": {"g": [2.0] * 4}, "corr": {"g": D / 4.0}, "sigma": 1.0}
    np.testing.assert_allclose(as_truth(model, truth).theta(model), [2.0, np.arcsin(0.5)], rtol=1e-9)
    bad = np.eye(4)
    bad[0, 3] = bad[3, 0] = 0.6
    for changes in ({"corr": {"g": bad}}, {"sd": {"g": [1.0, 2.0, 1.0, 1.0]}}):
        with pytest.raises(ValueError, match=r"the structure ar1 of 'g' cannot have these .* near to them are sd \["):
            as_truth(model, truth | changes)


def test_the_parts_of_a_restricted_covariance():
    data = table(np.random.default_rng(15))
    printed = {kind: str(mm.lmm(f"y ~ x + {kind}(0 + visit | g)", data).shrinkage()) for kind in ("ar1", "diag")}
    words = {kind: " ".join(text.split()) for kind, text in printed.items()}
    assert "ties variances to each other (ar1)" in words["ar1"] and "ties variances" not in words["diag"]


def test_terms_of_arrays_that_cannot_be():
    data = table(np.random.default_rng(16))
    X, g = np.column_stack([np.ones(len(data)), data.x]), data.g.to_numpy()
    Z = (data.visit.to_numpy()[:, None] == np.array(list("abcd"))).astype(float)
    for term, said in (
        (mm.Term(Z, g, kind="ar1", at=np.arange(4)), "term 0: the structure 'ar1' has no use of at="),
        (mm.Term(X, g, kind="ar1"), "term 0: the effects of 'ar1' are the levels of one factor"),
        (mm.Term(Z, g, kind=OrnsteinUhlenbeck(4)), "term 0: factor of the structure 'ou' fails without at="),
        (mm.Term(Z, g, kind=OrnsteinUhlenbeck(4), at=np.arange(3)), "term 0: factor of the structure 'ou' gives shape"),
    ):
        with pytest.raises(mm.DataError, match=said):
            mm.Model.from_arrays(data.y, X, [term])


# ---------------------------------------------------------------- a user's own
@dataclass(frozen=True)
class OrnsteinUhlenbeck(Covariance):
    """Correlation exp(-κ|t_i - t_j|), ``at`` the times (q,); theta is the standard deviation and log κ."""

    name = "ou"
    num_params = 2

    def factor(self, theta, at=None):
        gaps = jnp.abs(at[:, None] - at)  # pyright: ignore
        return theta[0] * jnp.linalg.cholesky(jnp.exp(-jnp.exp(theta[1]) * gaps))


def test_a_structure_with_inputs():
    """Where the times are equally far apart it is ar1, and their unit does not matter."""
    data = table(np.random.default_rng(12))
    Z = (data.visit.to_numpy()[:, None] == np.array(list("abcd"))).astype(float)
    X, g = np.column_stack([np.ones(len(data)), data.x]), data.g.to_numpy()

    def model(**kind):
        return mm.Model.from_arrays(data.y, X, [mm.Term(Z, g, "g", list("abcd"), **kind)])

    ou, ar1 = (model(kind=OrnsteinUhlenbeck(4), at=7.0 * np.arange(4)), model(kind="ar1"))
    fits = [ou.fit(), ar1.fit()]
    assert fits[0].converged and fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-7)
    np.testing.assert_allclose(*(fit.varcorr().blocks[0].cov for fit in fits), rtol=1e-4)
    np.testing.assert_allclose(*(fit.tidy()["estimate"] for fit in fits), rtol=1e-4)
    Y = np.stack([data.y, data.y[::-1]])
    batches = [mm.fit_many(m, Y, progress=False) for m in (ou, ar1)]
    np.testing.assert_allclose(batches[0].deviance, batches[1].deviance, atol=1e-6)
    np.testing.assert_allclose(batches[0].varcorr_sd, batches[1].varcorr_sd, rtol=1e-3)


def test_the_table_of_structures(monkeypatch):
    """A structure that is put there is one that formulas know, before and after."""
    data = table(np.random.default_rng(13))
    with pytest.raises(mm.FormulaError, match="around it may stand a structure: us, diag"):
        mm.Model.from_formula("y ~ x + apart(0 + visit | g)", data)
    monkeypatch.setitem(STRUCTURES, "apart", Apart)
    model = mm.Model.from_formula("y ~ x + apart(x + I(x^2) | g)", data)
    assert model.design.terms[0].covariance == Apart(3)


@dataclass(frozen=True)
class Apart(Covariance):
    """Three effects, the last independent of the others, as ``(1 + x | g) + (0 + z | g)`` has them."""

    name = "apart"
    closed_under = "diagonal"
    lanes = True
    cells = (np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]))

    @property
    def num_params(self):
        return 4

    def variance_rows(self):
        return [np.array([1, 2])]

    def factor(self, theta, at=None):
        return fill(3, self.cells, theta)

    def from_lower(self, lam, at=None):
        return lam[self.cells]


@pytest.fixture(scope="module")
def two():
    """The same model with a structure of one's own, and with two terms."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(30), 12)
    Z = np.column_stack([np.ones(360), rng.normal(size=(360, 2))])
    b = rng.normal(size=(30, 3)) @ np.array([[1.0, 0.5, 0], [0, 0.6, 0], [0, 0, 0.4]])
    y = 1 + Z[:, 1] + np.sum(Z * b[g], axis=1) + rng.normal(size=360)
    effects = ("(Intercept)", "x", "z")
    own = [mm.Term(Z, g, "g", effects, Apart(3))]
    terms = [mm.Term(Z[:, :2], g, "g", effects[:2]), mm.Term(Z[:, 2:], g, "g", effects[2:])]
    return y, [mm.Model.from_arrays(y, Z[:, :2], of) for of in (own, terms)]


def test_a_structure_of_ones_own(two):
    _, models = two
    own, terms = (model.fit() for model in models)
    assert own.converged and own.deviance == pytest.approx(terms.deviance, abs=1e-8)
    for table in ("tidy", "varcorr"):
        a, b = (getattr(fit, table)() for fit in (own, terms))
        a, b = (x if table == "tidy" else x.to_frame() for x in (a, b))
        pd.testing.assert_frame_equal(a, b, rtol=1e-5)
    assert "apart" in repr(models[0])
    np.testing.assert_array_equal(own.varcorr().blocks[0].estimated, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_a_structure_of_ones_own_in_a_batch(two):
    y, models = two
    fit = models[1].fit()
    Y = np.stack([y, *fit.simulate(5, key=jax.random.key(0))])
    own, terms = (mm.fit_many(model, Y, progress=False) for model in models)
    assert own.converged.all() and own.names.corr == terms.names.corr
    np.testing.assert_allclose(own.deviance, terms.deviance, atol=1e-7)
    np.testing.assert_allclose(own.varcorr_corr, terms.varcorr_corr, atol=1e-6)
    pd.testing.assert_frame_equal(own[0].varcorr().to_frame(), models[0].fit().varcorr().to_frame(), rtol=1e-4)


def test_what_is_no_structure():
    with pytest.raises(TypeError, match=r"instance of jaxmm\.covariance\.Covariance, not 3"):
        covariance.get(3, 2)  # pyright: ignore
    with pytest.raises(ValueError, match="for 3 effects, the term has 2"):
        covariance.get(Apart(3), 2)
