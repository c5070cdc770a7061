"""What is said where there are few levels: z tests in summaries and studies, the bootstrap of cases."""

import warnings

import jax
import numpy as np
import pytest
from glmm_fits import fitted

import jaxmm as mm
from jaxmm.inference.wald import few_levels
from jaxmm.studies.hypotheses import LikelihoodRatio, WaldZ


def test_the_sentence():
    assert few_levels({"g": 10, "h": 300}) is None
    assert "with 6 levels of h p is" in few_levels({"g": 14, "h": 6})
    assert "with 9 levels of g and 6 levels of h p is" in few_levels({"g": 9, "h": 6})


def test_summary_of_z_tests():
    assert "with 6 levels of h" in str(fitted("crossed").summary())
    assert "z tests" not in str(fitted("poisson").summary())  # 14 levels


def test_summary_of_a_linear_model_has_no_z_tests(weighted):
    assert "z tests" not in str(weighted.summary())


def test_studies(sleep_reml):
    few = mm.Model.from_arrays(
        np.arange(24.0) % 7, np.ones((24, 1)), [mm.Term(np.ones((24, 1)), np.arange(24) % 6)], names=["(Intercept)"]
    )
    assert "with 6 levels of" in WaldZ().note(few)
    assert WaldZ().note(sleep_reml.model) is None
    assert not hasattr(LikelihoodRatio(("Days",)), "note")


def test_power_says_so(sleepstudy):
    fit = mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    curve = mm.power_curve(fit, along={"Subject": [6, 8, 12]}, n=20, key=jax.random.key(0), test="Days", progress=False)
    assert "at Subject = 6 (and at 1 more of the sizes): z tests" in repr(curve)
    assert max(map(len, repr(curve).splitlines())) <= 130
    assert curve.points[2].notes == ()
    few = fit.model.design
    assert len(few.factors[0].levels) == 18
    assert "z tests" not in repr(mm.power(fit, n=20, key=jax.random.key(0), test="Days", progress=False))


def test_bootstrap_of_few_cases(sleepstudy):
    some = sleepstudy[sleepstudy["Subject"].isin(sleepstudy["Subject"].cat.categories[:10])]
    fit = mm.lmm("Reaction ~ Days + (1 | Subject)", some)
    with pytest.warns(UserWarning, match="a case bootstrap of 10 levels.*78 %"):
        fit.bootstrap(4, key=jax.random.key(0), kind="case", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.bootstrap(4, key=jax.random.key(0), progress=False)
