"""Structures with a known matrix, ``propto(0 + species | g, K)``: against dense algebra, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

import jaxmm as mm
from jaxmm.design.known import known_root


def tree(q: int, rng: np.random.Generator) -> np.ndarray:
    """Covariance of species: the time that two have in common, where each splits off one before it."""
    K = np.ones((1, 1))
    for k in range(1, q):
        parent, share = rng.integers(k), rng.uniform(0.2, 0.9)
        row = share * K[parent] / K[parent, parent]
        K = np.block([[K, row[:, None]], [row[None], np.ones((1, 1))]])
    return K


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    q, names = 30, [f"s{k:02d}" for k in range(30)]
    K = tree(q, rng)
    species = np.repeat(np.arange(q), 4)
    b = np.linalg.cholesky(K) @ rng.normal(size=q)
    table = pd.DataFrame({"species": np.array(names)[species], "one": 1, "x": rng.normal(size=4 * q)})
    table["y"] = 1 + 0.5 * table.x + b[species] + 0.7 * rng.normal(size=4 * q)
    table["count"] = rng.poisson(np.exp(0.2 * table.x + 0.5 * b[species]))
    return table, pd.DataFrame(K, names, names)


def dense(data, K, theta, reml):
    """-2 log-likelihood at D = theta² σ² K."""
    X, y, n = np.column_stack([np.ones(len(data)), data.x]), data.y.to_numpy(), len(data)
    Z = pd.get_dummies(data.species).to_numpy(float)
    V = np.eye(n) + theta**2 * Z @ K @ Z.T
    L = np.linalg.cholesky(V)
    Xw, yw = np.linalg.solve(L, X), np.linalg.solve(L, y)
    beta, rss = np.linalg.lstsq(Xw, yw)[:2]
    df = n - 2 * reml
    logdet = 2 * np.log(np.diag(L)).sum() + reml * np.linalg.slogdet(Xw.T @ Xw)[1]
    return logdet + df * (1 + np.log(2 * np.pi * float(rss[0]) / df)), beta


@pytest.mark.parametrize("reml", [True, False])
def test_a_linear_model_is_the_dense_one(data, reml):
    table, K = data
    fit = mm.lmm("y ~ x + propto(0 + species | one, K)", table, reml=reml, matrices={"K": K})
    best = minimize_scalar(lambda t: dense(table, K.to_numpy(), t, reml)[0], bounds=(0.1, 10), options={"xatol": 1e-9})
    assert fit.converged and not fit.is_singular
    assert fit.deviance == pytest.approx(best.fun, abs=1e-7) and fit.theta[0] == pytest.approx(best.x, rel=1e-5)
    np.testing.assert_allclose(fit.fixef, dense(table, K.to_numpy(), best.x, reml)[1], rtol=1e-6)
    np.testing.assert_allclose(fit.varcorr().cov["one"], fit.theta[0] ** 2 * fit.sigma**2 * K, rtol=1e-9)
    assert "K)" in repr(fit.model)


def test_spellings_of_one_matrix(data):
    """A table in another order and of more levels, an array, arrays without a formula, K and a multiple of it."""
    table, K = data
    more = pd.DataFrame(np.eye(32), [*K.index, "other", "s99"], [*K.index, "other", "s99"])
    more.loc[K.index, K.index] = K
    shuffled = more.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2)
    formula = "y ~ x + propto(0 + species | one, K)"
    fits = [mm.lmm(formula, table, matrices={"K": of}) for of in (K, shuffled, K.to_numpy(), 4 * K)]
    Z = pd.get_dummies(table.species).to_numpy(float)
    term = mm.Term(Z, table.one.to_numpy(), kind="propto", at=K.to_numpy())
    fits.append(mm.Model.from_arrays(table.y, np.column_stack([np.ones(120), table.x]), [term]).fit())
    for fit in fits[1:]:
        assert fit.deviance == pytest.approx(fits[0].deviance, abs=1e-9)
    assert fits[3].theta[0] == pytest.approx(fits[0].theta[0] / 2, rel=1e-6)


def test_no_relation_is_a_random_intercept(data):
    table, _ = data
    fits = [
        mm.lmm("y ~ x + propto(0 + species | one, unrelated)", table, matrices={"unrelated": np.eye(30)}),
        mm.lmm("y ~ x + (1 | species)", table),
    ]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-8)


def test_a_singular_matrix_is_no_singular_fit(data):
    """Clones: two species that are one, of which the model is that of the two together."""
    table, K = data
    first, second = K.index[:2]
    clones = K.copy()
    clones.loc[second], clones[second] = clones.loc[first], clones[first]
    clones.loc[second, second] = 1.0
    fit = mm.lmm("y ~ x + propto(0 + species | one, K)", table, matrices={"K": clones})
    merged = mm.lmm("y ~ x + propto(0 + species | one, K)", table.replace({"species": {second: first}}),
                    matrices={"K": K})  # fmt: skip
    assert fit.converged and not fit.is_singular
    assert fit.deviance == pytest.approx(merged.deviance, abs=1e-7)


def test_there_is_no_influence_of_one_level(data):
    table, K = data
    few = table[table.species < "s06"]
    fit = mm.lmm("y ~ x + propto(0 + species | one, K)", few, matrices={"K": K})
    with pytest.raises(ValueError, match="by='one' has one level, without which no rows are left"):
        fit.influence(by="one")


def test_generalised_models_and_batches(data):
    table, K = data
    few = table[table.species < "s06"]
    fit = mm.glmm("count ~ x + propto(0 + species | one, K)", few, "poisson", matrices={"K": np.eye(6)})
    same = mm.glmm("count ~ x + (1 | species)", few, "poisson")
    assert fit.converged and fit.deviance == pytest.approx(same.deviance, abs=1e-6)
    model = mm.Model.from_formula("y ~ x + propto(0 + species | one, K)", few, matrices={"K": K})
    Y = np.stack([few.y, few.y[::-1]])
    batch = mm.fit_many(model, Y, progress=False)
    for k in range(2):
        assert batch.deviance[k] == pytest.approx(model.with_response(Y[k]).fit().deviance, abs=1e-6)


def test_errors_of_a_known_covariance():
    """residual="propto(time | g, K)" is ar1 where K is that of its estimate."""
    rng = np.random.default_rng(6)
    table = pd.DataFrame(
        {"g": np.repeat(np.arange(25), 4), "time": np.tile(list("abcd"), 25), "x": rng.normal(size=100)}
    )
    root = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(4), range(4))))
    table["y"] = table.x + (rng.normal(size=(25, 4)) @ root.T).ravel()
    table = table.drop(index=[3, 17, 18])
    ar1 = mm.lmm("y ~ x", table, residual="ar1(time | g)")
    known = mm.lmm("y ~ x", table, residual="propto(time | g, K)", matrices={"K": ar1.residual.corr})
    assert known.converged and known.deviance == pytest.approx(ar1.deviance, abs=1e-7)
    np.testing.assert_allclose(known.residual.cov, ar1.residual.cov, rtol=1e-5)


def test_what_is_no_matrix_of_the_levels(data):
    table, K = data
    formula = "y ~ x + propto(0 + species | one, K)"
    asymmetric, indefinite, holed = K.copy(), 2 * K - 1.9 * np.eye(30), K.copy()
    asymmetric.iloc[0, 3] += 0.5
    holed.iloc[4, 2] = np.nan
    for matrices, said in (
        (None, r"the matrix 'K' is not in matrices=: it is empty: give matrices=\{'K': ...\}"),
        ({"L": K}, "'K' is not in matrices=: it has 'L'"),
        ({"K": K, "L": K}, "the matrix 'L' of matrices= is not used"),
        ({"K": K.iloc[:28, :28]}, "the rows of K lack 's28', 's29' of the levels of the data"),
        ({"K": K.to_numpy()[:20, :20]}, r"K has shape \(20, 20\) and the data have 30 levels: give \(30, 30\)"),
        ({"K": asymmetric}, "K is not symmetric: it has .* for 's00' and 's03'"),
        ({"K": indefinite}, "K is not positive semidefinite, its least eigenvalue is -"),
        ({"K": holed}, "K is not finite between 's04' and 's02'"),
        ({"K": K.astype(object).replace(1.0, "a")}, "K holds text"),
        ({"K": pd.concat([K, K.iloc[:1]])}, "the rows of K have 's00' twice"),
    ):
        with pytest.raises(mm.DataError, match=said):
            mm.lmm(formula, table, matrices=matrices)
    with pytest.raises(TypeError, match="matrices is a mapping such as"):
        mm.lmm(formula, table, matrices=K.to_numpy())  # pyright: ignore
    with pytest.raises(mm.DataError, match="'K' of matrices= is not used"):
        mm.glmm("count ~ x + (1 | species)", table, "poisson", matrices={"K": K})
    for bar in ("propto(0 + species | one)", "propto(0 + species | one, 3)"):
        with pytest.raises(
            mm.FormulaError, match=r"takes the name of a matrix after the bar: propto\(0 \+ f \| g, K\)"
        ):
            mm.lmm(f"y ~ x + {bar}", table, matrices={"K": K})
    with pytest.raises(mm.FormulaError, match="no option: leave out K"):
        mm.lmm("y ~ x + us(0 + species | one, K)", table, matrices={"K": K})
    with pytest.raises(mm.DataError, match="are the levels of one factor"):
        mm.lmm("y ~ x + propto(x | one, K)", table, matrices={"K": K})


def test_one_level_of_the_grouping_factor(data):
    """Is enough where its effects tell of their covariance, and else not."""
    table, _ = data
    with pytest.raises(mm.DataError, match="has the one level '1'"):
        mm.lmm("y ~ x + diag(0 + species | one)", table)
    fits = [mm.lmm(f"y ~ x + {bar}", table) for bar in ("homdiag(0 + species | one)", "(1 | species)")]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-8)


def test_numbers_are_names_too():
    K = pd.DataFrame(np.diag([1.0, 2.0, 3.0]), [1, 2, 3], [1, 2, 3])
    np.testing.assert_allclose(known_root("t", "K", ["3", "1"], K) ** 2, np.diag([3.0, 1.0]))
