"""Studies: their tables against plain formulas, their tests against single fits; many responses of one design."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

import jaxmm as mm
from jaxmm.optimize import Status
from jaxmm.results import multiplicity
from jaxmm.sources.draw import Simulated
from jaxmm.sources.truth import as_truth
from jaxmm.studies import montecarlo
from jaxmm.studies.designs import make_design, plan
from jaxmm.studies.hypotheses import LikelihoodRatio, WaldZ, columns_of, without
from jaxmm.studies.study import study, truth_as_batch

N = 12
TRUTH = {"fixef": {"(Intercept)": 1.0, "condb": 0.5, "condc": 0.0}, "sd": {"s": 1.0}, "sigma": 0.7}


def share_of_groups(batch):
    return batch.varcorr_sd[:, 0] ** 2 / (batch.varcorr_sd[:, 0] ** 2 + batch.sigma**2)


@pytest.fixture(scope="module")
def model():
    table = make_design({"s": 8}, within={"cond": ["a", "b", "c"]}, repeats=2)
    return plan("y ~ cond + (1 | s)", table)


@pytest.fixture(scope="module")
def result(model):
    return study(
        model,
        TRUTH,
        N,
        key=jax.random.key(1),
        lrt=["condb", "cond"],
        statistics={"icc": share_of_groups},
        progress=False,
    )


@pytest.fixture(scope="module")
def fits(model):
    y = np.asarray(Simulated(model, TRUTH, N, jax.random.key(1)).block(0, N).y)
    return [model.with_response(x).fit() for x in y]


# ---------------------------------------------------------------- the tables
def test_recovery_of_coefficients(result, fits):
    estimates = np.array([f.fixef["condb"] for f in fits])
    errors = np.array([f.bse["condb"] for f in fits])
    row = result.recovery.loc["condb"]
    assert row["truth"] == 0.5 and row["n"] == N
    assert row["mean"] == pytest.approx(estimates.mean(), abs=1e-6)
    assert row["bias"] == pytest.approx(estimates.mean() - 0.5, abs=1e-6)
    assert row["bias_mc"] == pytest.approx(stats.sem(estimates), rel=1e-4)
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean((estimates - 0.5) ** 2)), rel=1e-4)
    assert row["sd"] == pytest.approx(estimates.std(ddof=1), rel=1e-4)
    assert row["mean_se"] == pytest.approx(errors.mean(), rel=1e-4)
    covered = np.abs(estimates - 0.5) <= stats.norm.ppf(0.975) * errors
    assert row["coverage"] == pytest.approx(covered.mean())


def test_recovery_of_variance_parameters_and_statistics(result, fits):
    sd = np.array([f.varcorr().sd["s"].iloc[0] for f in fits])
    sigma = np.array([f.sigma for f in fits])
    table = result.recovery
    assert list(table.index) == ["(Intercept)", "condb", "condc", "sd_(Intercept)|s", "sigma", "icc"]
    assert table.loc["sd_(Intercept)|s", "mean"] == pytest.approx(sd.mean(), rel=1e-4)
    assert table.loc["sigma", ["truth", "mean"]].tolist() == pytest.approx([0.7, sigma.mean()], rel=1e-4)
    assert table.loc["icc", "truth"] == pytest.approx(1 / 1.49)
    assert table.loc["icc", "mean"] == pytest.approx(np.mean(sd**2 / (sd**2 + sigma**2)), rel=1e-4)
    assert np.isnan(table.loc["sigma", "coverage"])


def test_the_monte_carlo_errors_are_those_of_repeated_studies():
    rng = np.random.default_rng(4)
    estimates = rng.gamma(4.0, 0.5, size=(3000, 200))  # mean 2, sd 1: skew on purpose
    found = [montecarlo.accuracy(x, 1.8, np.full(200, 0.9), 0.95) for x in estimates]
    for name in ("bias", "rmse", "mean_se", "coverage"):
        spread = np.std([f[name] for f in found])
        assert np.mean([f[f"{name}_mc"] for f in found]) == pytest.approx(spread, rel=0.05, abs=1e-12), name
    normal = [montecarlo.accuracy(x, 0.0, None, 0.95) for x in rng.normal(size=(3000, 50))]
    assert np.mean([f["sd_mc"] for f in normal]) == pytest.approx(np.std([f["sd"] for f in normal]), rel=0.05)


@pytest.mark.parametrize("hits, n", [(0, 20), (20, 20), (7, 20), (963, 1000)])
def test_exact_intervals(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(0.9, method="exact")
    assert montecarlo.exact_interval(hits, n, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert montecarlo.exact_interval(0, 0, 0.9) == (0, 1)


def test_p_values_are_those_of_single_fits(model, result, fits):
    p = result.p_values
    assert list(p) == [("Wald z", (c,)) for c in model.design.columns] + [
        ("likelihood ratio", ("condb",)),
        ("likelihood ratio", ("condb", "condc")),
    ]
    assert p["Wald z", ("condb",)] == pytest.approx(
        [f.coef_table("asymptotic").loc["condb", "p"] for f in fits], abs=1e-5
    )
    for columns in (("condb",), ("condb", "condc")):
        reduced = without(model, columns)
        expected = [mm.anova(f, reduced.with_response(f.model.design.y).fit()).table["p"].iloc[1] for f in fits]
        assert p["likelihood ratio", columns] == pytest.approx(expected, abs=1e-5)


def test_rates_of_rejection(result):
    table = result.tests
    assert list(table["is"]) == ["power", "power", "type I error", "power", "power"]
    for row, p in zip(table.to_dict("records"), result.p_values.values(), strict=True):
        hits = int(np.sum(p <= 0.05))
        assert (row["rejections"], row["n"]) == (hits, N)
        assert row["rate"] == hits / N and row["rate_mc"] == pytest.approx(np.sqrt(hits / N * (1 - hits / N) / N))
        assert row["lower"] <= row["rate"] <= row["upper"]
    assert list(result.rates.index) == ["full", "full, by ML", "without condb", "without condb, condc"]
    assert set(result.null_batches) == {"condb", "condb, condc"}
    assert list(result.to_frame().columns[-2:]) == ["p_condb (likelihood ratio)", "p_condb, condc (likelihood ratio)"]


def test_failed_fits_are_counted_and_left_out(result):
    batch = result.batch
    fixef, loglik, status = batch.fixef.copy(), batch.loglik.copy(), batch.status.copy()
    fixef[3], loglik[3], status[3], status[5] = np.nan, np.nan, Status.NOT_FINITE, Status.MAX_ITERATIONS
    worse = batch.with_columns(fixef=fixef, loglik=loglik, status=status)
    fits = replace(result.fits, batch=worse)
    again = replace(result, fits=fits, p_values={("Wald z", k): p for k, p in WaldZ().p_values(fits).items()})
    left = np.delete(np.arange(N), [3, 5])
    assert again.recovery.loc["condb", "n"] == N - 2
    assert again.recovery.loc["condb", "mean"] == pytest.approx(batch.fixef[left, 1].mean())
    assert again.tests["n"].tolist() == [N - 2] * 3
    rates = again.rates.loc["full"]
    assert (rates["failed"], rates["not_converged"]) == pytest.approx((1 / N, 2 / N))
    assert "8.3 ± 8.0%" in repr(again) and "17 ± 11%" in repr(again)


def test_what_is_printed(result):
    text = repr(result)
    for part in ("12 responses of 48 rows", "coverage of 95%", "sd_(Intercept)|s", "likelihood ratio  condb, condc",
                 "type I error", "compare fits by maximum likelihood", "not converged"):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 140


def test_a_study_by_ml_fits_the_model_once(model):
    found = study(model.by_ml(), TRUTH, 3, key=jax.random.key(0), tests=[], lrt="condc", progress=False)
    assert found.fits.by_ml is found.batch and list(found.rates.index) == ["full", "without condc"]
    assert list(found.p_values) == [("likelihood ratio", ("condc",))]
    assert "compare fits" not in repr(found)


def test_of_a_fit(sleep_ml):
    found = study(sleep_ml, None, 2, key=jax.random.key(0), progress=False)
    assert found.recovery["truth"].loc["Days"] == pytest.approx(sleep_ml.fixef["Days"])
    assert found.recovery["truth"].iloc[4] == pytest.approx(sleep_ml.varcorr().corr["Subject"].iloc[0, 1])


@pytest.mark.slow  # compiling the Poisson lanes takes most of it
def test_of_a_generalised_model():
    table = make_design({"s": 30}, within={"x": [0, 1]}, repeats=4)
    poisson = plan("y ~ x + (1 | s)", table, "poisson")
    truth = {"fixef": {"(Intercept)": 1.0, "x": 0.0}, "sd": {"s": 0.4}}
    found = study(poisson, truth, 200, key=jax.random.key(0), lrt="x", progress=False)
    assert list(found.recovery.index) == ["(Intercept)", "x", "sd_(Intercept)|s"]
    assert (found.recovery["bias"].abs() < 4 * found.recovery["bias_mc"] + 0.02).all()
    assert found.tests["rate"].iloc[1] < 0.12 and found.rates["not_converged"].max() == 0
    assert found.tests["is"].tolist() == ["power", "type I error", "type I error"]


def test_each_model_has_its_folder(model, tmp_path):
    def run():
        return study(model, TRUTH, 3, key=jax.random.key(0), lrt="cond", out=tmp_path / "s", progress=False)

    first = run()
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["full", "full-ml", "without-condb%20condc"]
    assert np.array_equal(run().batch.fixef, first.batch.fixef)
    with pytest.raises(ValueError, match="another"):
        study(model, TRUTH, 3, key=jax.random.key(1), out=tmp_path / "s", progress=False)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"truth": None}, ValueError, "unfitted model has no parameters"),
        ({"n": 0}, ValueError, "positive number of replicates, not 0"),
        ({"alpha": 5}, ValueError, "alpha must lie between 0 and 1, not 5"),
        ({"level": 95}, ValueError, "level must lie between 0 and 1"),
        ({"key": 3.0}, TypeError, "key must be a seed"),
        ({"lrt": ["conda"]}, ValueError, "no coefficient and no term 'conda'"),
        ({"statistics": {"s": lambda batch: 1.0}}, ValueError, "statistic 's' gave shape"),
    ],
)
def test_studies_that_make_no_sense(model, changes, error, message):
    arguments = {"truth": TRUTH, "n": 2, "key": jax.random.key(0), "progress": False, **changes}
    with pytest.raises(error, match=message):
        _ = study(model, **arguments).recovery


def test_a_study_of_no_model():
    with pytest.raises(TypeError, match=r"must be a jaxmm\.Model or a fit, not str"):
        study("y ~ cond + (1 | s)", TRUTH, 2, key=jax.random.key(0))


# ---------------------------------------------------------------- null models, truths
def test_a_model_without_some_columns(sleepstudy, sleep_reml):
    reduced = without(sleep_reml.model, ("Days",)).fit()
    direct = mm.lmm("Reaction ~ 1 + (Days | Subject)", sleepstudy)
    assert reduced.deviance == pytest.approx(direct.deviance, abs=1e-6)
    assert list(reduced.fixef.index) == ["(Intercept)"] and "without Days" in reduced.formula
    rows = sleepstudy.head(3)
    assert reduced.predict(rows).to_numpy() == pytest.approx(direct.predict(rows).to_numpy(), rel=1e-5)
    empty = without(sleep_reml.model.by_ml(), ("(Intercept)", "Days")).fit()
    assert empty.df == 4 and empty.deviance > reduced.refit_ml().deviance
    with pytest.raises(ValueError, match="'days'; the model has '\\(Intercept\\)', 'Days'"):
        without(sleep_reml.model, ("days",))


def test_columns_of_a_term():
    table = make_design({"s": 6, "i": 6}, within={"f": ["a", "b", "c"], "x": [0.0, 1.0]})
    d = plan("y ~ f * x + (1 | s)", table.assign(x=np.arange(len(table)) % 7)).design
    assert columns_of(d, "f") == ("fb", "fc")
    assert columns_of(d, "f:x") == ("fb:x", "fc:x")
    assert columns_of(d, "x") == ("x",)
    assert columns_of(d, ["f", "x"]) == ("fb", "fc", "x")
    with pytest.raises(ValueError, match="no term 'g'"):
        columns_of(d, "g")


def test_the_truth_as_a_batch(sleep_reml):
    found = truth_as_batch(sleep_reml.model, as_truth(sleep_reml.model, sleep_reml))
    assert found.theta[0] == pytest.approx(sleep_reml.theta)
    assert found.varcorr_sd[0] == pytest.approx(sleep_reml.varcorr().sd["Subject"].to_numpy())
    assert found.varcorr_corr[0] == pytest.approx(sleep_reml.varcorr().corr["Subject"].iloc[0, 1])
    assert found.to_frame()["sigma"][0] == pytest.approx(sleep_reml.sigma)


def test_a_likelihood_ratio_is_never_negative(model, result):
    worse = result.batch.with_columns(loglik=result.batch.loglik - 100)
    p = LikelihoodRatio(("condb",)).p_values(replace(result.fits, by_ml=worse))["condb",]
    assert np.all(p == 1)


# ---------------------------------------------------------------- many hypotheses
@pytest.mark.parametrize("method", ["bh", "by"])
def test_false_discovery_rates(method):
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.uniform(size=200), rng.uniform(size=50) ** 6, [0.01, 0.01, 0.0, 1.0]])
    expected = stats.false_discovery_control(p, method=method)
    assert multiplicity.adjust(p, f"fdr_{method}") == pytest.approx(expected, abs=1e-15)
    with_holes = np.insert(p, [3, 50], np.nan)
    found = multiplicity.adjust(with_holes, f"fdr_{method}")
    assert np.array_equal(np.isnan(found), np.isnan(with_holes))
    assert found[~np.isnan(found)] == pytest.approx(expected, abs=1e-15)


def test_family_wise_errors():
    p = [0.04, 0.01, 0.03, 0.5]
    assert multiplicity.adjust(p, "bonferroni") == pytest.approx([0.16, 0.04, 0.12, 1.0])
    assert multiplicity.adjust(p, "holm") == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert np.array_equal(multiplicity.adjust(p, None), p)
    assert len(multiplicity.adjust([], "holm")) == 0
    with pytest.raises(ValueError, match=r"one of 'fdr_bh', .* not 'BH'"):
        multiplicity.adjust(p, "BH")
    with pytest.raises(ValueError, match=r"there is 1\.2"):
        multiplicity.adjust([0.1, 1.2])


def test_the_table_of_many_responses(result):
    batch = result.batch
    table = batch.test_table()
    assert len(table) == 3 * N and list(table["coef"].unique()) == list(batch.names.fixef)
    own = table[table["coef"] == "condb"]
    assert own["z"].to_numpy() == pytest.approx(batch.fixef[:, 1] / batch.bse[:, 1])
    assert own["p"].to_numpy() == pytest.approx(2 * stats.norm.sf(np.abs(own["z"])))
    assert own["p_adjusted"].to_numpy() == pytest.approx(stats.false_discovery_control(own["p"]))
    status = batch.status.copy()
    status[0] = Status.MAX_ITERATIONS
    named = batch.with_columns(status=status).test_table("condb", "holm", [f"voxel{k}" for k in range(N)])
    assert named["response"][1] == "voxel1" and named["status"][0] == "max_iterations"
    assert np.isnan(named["p_adjusted"][0])
    assert named["p_adjusted"][1:].to_numpy() == pytest.approx(multiplicity.adjust(own["p"].to_numpy()[1:], "holm"))
    with pytest.raises(ValueError, match="no coefficient 'cond'"):
        batch.test_table("cond")
    with pytest.raises(ValueError, match="2 labels for 12 responses"):
        batch.test_table(labels=["a", "b"])
