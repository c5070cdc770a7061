"""Studies of trials whose errors are correlated: dropout, tests by name, sizes, each against data and fits by hand."""

import numpy as np
import pytest

import jaxmm as mm
from jaxmm.sources.coloured import singular_root
from jaxmm.sources.columns import Columns, levels_of
from jaxmm.studies.extending import extend_model, first_levels
from jaxmm.studies.hypotheses import Fits, without

VISITS = ["week 2", "week 4", "week 8", "week 12"]  # in this order, which is not that of the alphabet
R = np.array([[1, 0.6, 0.4, 0.3], [0.6, 1, 0.7, 0.5], [0.4, 0.7, 1, 0.8], [0.3, 0.5, 0.8, 1.0]])
SD = np.array([1.0, 1.5, 2.0, 2.5])
COV = SD[:, None] * R * SD
WHO = {"unit": "patient", "visit": "visit"}


def design(n=24):
    return mm.make_design({"patient": n}, within={"visit": VISITS}, between={"patient": {"arm": ["c", "t"]}})


@pytest.fixture(scope="module")
def model():
    return mm.plan("y ~ arm * visit", design(), residual="us(visit | patient)")


@pytest.fixture(scope="module")
def truth(model):
    return {"fixef": dict.fromkeys(model.design.columns, 0.0) | {"armt": 1.0}, "residual": COV}


def drawn(model, truth, size, key=1, **mechanism):
    return mm.Simulated(model, truth, 10_000, key, mechanism=mm.Mechanism(**mechanism)).block(0, size)


# ---------------------------------------------------------------- what is drawn
def test_numbers_are_those_of_a_study_without_a_mechanism(model, truth):
    plain = mm.Simulated(model, truth, 100, 1).block(3, 66)
    found = mm.Simulated(model, truth, 100, 1, mechanism=mm.Mechanism(missing=mm.missing.AtRandom(0.1))).block(3, 66)
    np.testing.assert_allclose(found.y, np.asarray(plain.y), rtol=1e-12, atol=1e-12)


def test_rows_in_any_order_by_arm_and_with_a_formula_of_log_phi():
    """Each row has the error that its subject and time have, whatever the order, and the variance of its own."""
    table = design(8).assign(z=np.linspace(-1, 1, 32))
    shuffled = table.sample(frac=1, random_state=1).iloc[:-3]
    keywords = {"residual": "hetar1(visit | patient, by=arm)", "dispersion": "~ z"}
    truth = {
        "fixef": [0.0], "residual": {"c": {"sd": SD, "corr": 0.5}, "t": {"sd": 2.0, "corr": -0.3}},
        "dispersion": {"z": 0.7},
    }  # fmt: skip
    model = mm.plan("y ~ 1", shuffled, **keywords)
    y = drawn(model, truth, 1280, missing=mm.missing.AtRandom(0.1)).y
    place, arm = shuffled["visit"].cat.codes.to_numpy(), (shuffled["arm"] == "t").to_numpy()
    patient = shuffled["patient"].to_numpy()
    lag = np.abs(np.subtract.outer(place, place))
    sd = np.where(arm, 2.0, SD[place]) * np.exp(0.35 * shuffled["z"].to_numpy())
    C = (patient[:, None] == patient) * np.where(arm[:, None], -0.3, 0.5) ** lag * np.outer(sd, sd)
    error = np.sqrt((C**2 + np.outer(np.diag(C), np.diag(C))) / len(y))
    assert np.max(np.abs(y.T @ y / len(y) - C) / error) < 5  # of 406 covariances


def test_heavy_tails_keep_the_covariance(model, truth):
    y = drawn(model, truth, 640, errors="t").y - (design()["arm"] == "t").to_numpy()
    e = y.reshape(-1, 4)
    np.testing.assert_allclose(e.T @ e / len(e), COV, rtol=0.08)
    first = e[:, 0] / SD[0]
    assert np.mean(first**4) > 4  # 3 of normal numbers; 9 of t with 5 degrees, estimated low


def test_a_singular_covariance_has_a_root(x64):
    C = np.array([[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 2.0]])
    L = np.asarray(singular_root(np.asarray(C)[:, :, None]))[:, :, 0]
    np.testing.assert_allclose(L @ L.T, C, atol=1e-15)


def test_visits_come_in_the_order_of_their_levels(model, truth):
    codes, labels = levels_of("visit", "visit", model.design)
    assert labels == VISITS and np.array_equal(codes, design()["visit"].cat.codes)
    left = drawn(model, truth, 64, missing=mm.missing.Dropout(0.3, **WHO)).weights.reshape(-1, 4)
    assert np.all(np.diff(left, axis=1) <= 0) and left[:, 0].min() == 1 and left[:, 3].mean() < 0.5


def test_columns_that_only_the_errors_have():
    plan = mm.plan("y ~ 1", design(16), residual="us(visit | patient, by=arm)")
    columns = Columns(plan.design)
    assert sorted(columns) == ["arm", "patient", "visit"]
    assert np.array_equal(columns["visit"], design(16)["visit"].astype(str))


def test_heavy_dropout_depends_on_what_was_seen(model, truth):
    found = drawn(model, truth, 640, missing=mm.missing.DropoutByResponse(-1, previous=-0.6, **WHO))
    y, there = found.y.reshape(-1, 4), found.weights.reshape(-1, 4) > 0
    low, high = y[:, 0] < -1, y[:, 0] > 1
    assert there[low, 1].mean() < there[high, 1].mean() - 0.2 and np.all(np.diff(1 * there, axis=1) <= 0)


# ---------------------------------------------------------------- what is tested
def table_of(block, k):
    return design().assign(y=np.where(block.weights[k] > 0, block.y[k], np.nan))


@pytest.fixture(scope="module")
def studied(model, truth):
    tests = ["z", "satterthwaite", "kenward-roger", "kenward-roger-linear"]
    leave = mm.Mechanism(missing=mm.missing.Dropout({"c": 0.1, "t": 0.2}, by="arm", **WHO))
    found = mm.study(model, truth, 4, key=3, of=["armt", "arm:visit"], tests=tests, mechanism=leave, progress=False)
    return found, mm.Simulated(model, truth, 4, 3, mechanism=leave).block(0, 4)


def test_p_values_are_those_of_single_fits(studied):
    found, block = studied
    together = tuple(c for c in found.batch.names.fixef if ":" in c)
    for k in (0, 3):
        one = mm.lmm("y ~ arm * visit", table_of(block, k), residual="us(visit | patient)")
        assert one.nobs == found.batch.nobs[k] == (block.weights[k] > 0).sum()
        for ddf, name in (
            ("asymptotic", "Wald z"), ("satterthwaite", "Satterthwaite"), ("kenward-roger", "Kenward-Roger"),
            ("kenward-roger-linear", "Kenward-Roger, linear"),
        ):  # fmt: skip
            own = one.coef_table(ddf=ddf).loc["armt", "p"]
            assert found.p_values[name, ("armt",)][k] == pytest.approx(own, rel=1e-4)
        F = one.anova(type=1, ddf="kenward-roger").loc["arm:visit", "p"]
        assert found.p_values["Kenward-Roger", together][k] == pytest.approx(F, rel=1e-4)


def test_signs_of_subjects_and_a_bootstrap(model, truth):
    leave = mm.Mechanism(missing=mm.missing.Dropout(0.1, **WHO))
    large = truth | {"fixef": truth["fixef"] | {"armt": 8.0}}
    tests = [mm.BootstrapLRT(("armt",), n=19), mm.SignFlip(("armt",), n=99)]
    found = mm.study(model, large, 2, key=1, tests=tests, mechanism=leave, progress=False)
    assert found.p_values["bootstrap", ("armt",)].tolist() == [0.05, 0.05]
    assert found.p_values["permutation", ("armt",)].tolist() == [0.01, 0.01]


def test_signs_take_the_covariance_of_the_errors():
    """Errors of compound symmetry are a random intercept."""
    table, p = design(12), []
    cs = mm.plan("y ~ arm + visit", table, residual="homcs(visit | patient)")
    intercept = mm.plan("y ~ arm + visit + (1 | patient)", table)
    stated = {"fixef": dict.fromkeys(cs.design.columns, 0.0), "residual": {"sd": 1.4, "corr": 0.5}}
    Y = mm.Simulated(cs, stated, 2, key=1)
    for plan in (cs, intercept):
        null = mm.fit_many(without(plan.by_ml(), ("armt",)), Y, progress=False)
        fits = Fits(plan, null, None, {("armt",): null}, Y)
        p.append(mm.SignFlip(("armt",), n=99, key=4).p_values(fits)[("armt",)])
    np.testing.assert_allclose(p[0], p[1], atol=1e-12)


def test_a_covariance_that_is_not_linear_takes_the_other(truth):
    ar1 = mm.plan("y ~ arm", design(8), residual="ar1(visit | patient)")
    stated = {"fixef": [0.0, 0.0], "residual": {"sd": 1.0, "corr": 0.5}}
    with pytest.raises(ValueError, match=r"ar1.* are written: test by 'kenward-roger-linear', which does not"):
        mm.power(ar1, stated, 2, key=1, method="kenward-roger", progress=False)


# ---------------------------------------------------------------- more and fewer patients
def test_patients_are_copied_with_their_times_and_arms():
    model = mm.plan("y ~ arm * visit", design(6), residual="ar1(visit | patient, by=arm)")
    larger = extend_model(model, {"patient": 16})
    d = larger.design.residual
    assert len(d.subject.levels) == 16 and d.subject.levels[6] == f"{d.subject.levels[0]}.2"
    assert np.array_equal(d.place.reshape(16, 4), np.tile(np.arange(4), (16, 1)))
    assert np.array_equal(d.sets.codes.reshape(16, 4)[:, 0], np.arange(16) % 2)
    few, rows = first_levels(larger, {"patient": 10})
    assert np.array_equal(rows, np.arange(40)) and len(few.design.residual.subject.levels) == 10
    with pytest.raises(mm.DataError, match="along names 'site', which is no grouping factor; there are 'patient'"):
        extend_model(model, {"site": 3})
    with pytest.raises(mm.DataError, match=r"along repeats rows, and ar1.* has one row of 'patient' at each time"):
        extend_model(model, {"repeats": 2})


def test_a_curve_over_patients_with_dropout(model, truth, few_lanes_singly):
    """Of each size what a study of a table of that size has, of the same patients."""
    leave = mm.Mechanism(missing=mm.missing.Dropout({"c": 0.02, "t": 0.1}, by="arm", **WHO))
    asked = {"key": 2, "test": "armt", "mechanism": leave, "progress": False}
    curve = mm.power_curve(model, truth, 3, along={"patient": [18, 24]}, **asked)
    assert curve.table["nobs"].tolist() == [72, 96]
    whole = mm.power(model, truth, 3, **asked)
    ours, theirs = (x.p_values["Wald z", ("armt",)] for x in (curve.points[1], whole.study))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    block = mm.Simulated(model, truth, 3, 2, mechanism=leave).block(0, 1)
    half = table_of(block, 0).iloc[:72]
    half["patient"] = half["patient"].cat.remove_unused_categories()
    one = mm.lmm("y ~ arm * visit", half, residual="us(visit | patient)")
    p = one.coef_table(ddf="asymptotic").loc["armt", "p"]
    assert curve.points[0].p_values["Wald z", ("armt",)][0] == pytest.approx(p, rel=1e-4)


# ---------------------------------------------------------------- validity
@pytest.mark.slow
def test_an_mmrm_is_right_where_dropout_depends_on_what_was_seen(claim):
    """Bias and coverage at the last visit, where those who are there are the better ones."""
    n = 400
    model = mm.plan("y ~ arm * visit", design(50), residual="us(visit | patient)")
    names = model.design.columns
    truth = {"fixef": dict.fromkeys(names, 0.0), "residual": COV}
    last = [names.index("armt"), names.index("armt:visitweek 12")]
    leave = mm.missing.DropoutByResponse({"c": -2.0, "t": -1.5}, previous=-0.8, by="arm", **WHO)
    source = mm.Simulated(model, truth, n, 5, mechanism=mm.Mechanism(missing=leave))
    batch = mm.fit_many(model, source, start=truth, progress=False)
    effect = batch.fixef[:, last].sum(axis=1)
    error = effect.std() / np.sqrt(n)
    claim("bias of an MMRM's last visit, dropout by the last response", effect.mean(), 0.0, n=n, error=error)
    assert abs(effect.mean()) < 4 * error
    block = source.block(0, n)
    there, y, arm = block.weights.reshape(n, 50, 4)[:, :, 3] > 0, block.y.reshape(n, 50, 4)[:, :, 3], np.arange(50) % 2
    means = [np.nanmean(np.where(there & (arm == a), y, np.nan), axis=1) for a in (0, 1)]
    assert np.mean(means[0]) > 0.25  # those who are still there
