"""The adapter for marginaleffects, against the package itself: slopes and means are those of jaxmm.

The package is in no extra (it is licensed under the GPL): where it is not installed these tests are left out.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

me = pytest.importorskip("marginaleffects")
pl = pytest.importorskip("polars")
DIFFERENCES = 2e-3  # an error of a slope is a difference of differences there, good to 3e-4 here
factors = pytest.mark.skipif(
    int(pl.__version__.split(".")[0]) >= 2 and version("marginaleffects") == "0.6.0",
    reason="marginaleffects 0.6.0 compares factors with polars below 2 only",
)


@pytest.fixture(scope="module")
def module():
    folder = str(Path(__file__).resolve().parents[1] / "integrations")
    sys.path.insert(0, folder)
    yield pytest.importorskip("jaxmm_marginaleffects")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def herds():
    cbpp = mm.datasets.load("cbpp")
    return mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial"), cbpp


def test_the_slope_of_a_linear_model(module, sleep_reml, sleepstudy):
    found = me.avg_slopes(module.adapter(sleep_reml, sleepstudy), variables="Days")
    expected = sleep_reml.coef_table("asymptotic").loc["Days"]
    np.testing.assert_allclose(found["estimate"][0], expected["estimate"], rtol=1e-6)
    np.testing.assert_allclose(found["std_error"][0], expected["se"], rtol=DIFFERENCES)


def test_robust_errors_and_polars(module, sleep_reml, sleepstudy):
    table = pl.DataFrame({name: sleepstudy[name].tolist() for name in sleepstudy})
    found = me.avg_slopes(module.adapter(sleep_reml, table, vcov="CR0"), variables="Days")
    np.testing.assert_allclose(
        found["std_error"][0], sleep_reml.coef_table(vcov="CR0").loc["Days", "se"], rtol=DIFFERENCES
    )


def test_predictions_of_a_generalised_model(module, herds):
    fit, data = herds
    found = me.predictions(module.adapter(fit, data))
    np.testing.assert_allclose(found["estimate"], fit.predict(re="population"), rtol=1e-9)
    ends = me.predictions(module.adapter(fit, data, scale="link"))
    wald = fit.predict(re="population", scale="link", interval="confidence", uncertain="fixed")
    np.testing.assert_allclose(ends["conf_low"], wald["lower"], rtol=1e-5)


@factors
def test_comparisons_of_a_factor(module, herds):
    fit, data = herds
    found = me.avg_comparisons(module.adapter(fit, data), variables="period")
    means = fit.emmeans("period", scale="response").regrid().contrasts("trt.vs.ctrl", adjust="none").frame
    np.testing.assert_allclose(found["estimate"], means["estimate"], rtol=1e-6)
    np.testing.assert_allclose(found["std_error"], means["se"], rtol=1e-4)


def test_rows_that_were_left_out_and_an_offset(module, sleepstudy):
    data = sleepstudy.assign(Days=sleepstudy["Days"].where(sleepstudy.index != 7), more=np.linspace(0, 5, 180))
    fit = mm.lmm("Reaction ~ Days + offset(more) + (1 | Subject)", data)
    found = me.predictions(module.adapter(fit, data))
    assert len(found) == 179
    np.testing.assert_allclose(found["estimate"], fit.predict(re="population"), rtol=1e-9)


def test_mistakes_are_named(module, sleep_reml, sleepstudy):
    with pytest.raises(TypeError, match=r"fit must be a jaxmm\.Fit, not Model"):
        module.adapter(sleep_reml.model, sleepstudy)
    with pytest.raises(ValueError, match="scale must be one of 'response', 'link', not 'odds'"):
        module.adapter(sleep_reml, sleepstudy, scale="odds")
    with pytest.raises(ValueError, match="data has 9 rows and the fit used 180"):
        module.adapter(sleep_reml, sleepstudy.iloc[:9])
    y, X = sleepstudy["Reaction"].to_numpy(), np.column_stack([np.ones(180), sleepstudy["Days"]])
    arrays = mm.Model.from_arrays(y, X, [mm.Term(np.ones(180), pd.factorize(sleepstudy["Subject"])[0])])
    with pytest.raises(ValueError, match="made from arrays"):
        module.adapter(arrays.fit(), sleepstudy)


def test_nothing_in_the_library_knows_it():
    root = Path(mm.__file__).parent
    assert not [p for p in root.rglob("*.py") if "marginaleffects" in p.read_text()]
