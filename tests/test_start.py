"""Starts: never zero, and good enough that independent effects of uncentred predictors find the better minimum."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.start import level_start, moment_start


@pytest.fixture(scope="module")
def far_from_zero():
    """x ~ N(10, 1): intercepts and slopes at x = 0 are nearly collinear, and the criterion has two minima."""
    r = np.random.default_rng(22)
    g, x = np.arange(200) % 15, r.normal(size=200) + 10
    y = r.normal(size=15)[g] + 4 * r.normal(size=15)[g] * (x - 10) + r.normal(size=200)
    return pd.DataFrame({"y": y, "x": x, "g": g.astype(str)})


@pytest.mark.parametrize("formula", ["y ~ x + (x || g)", "y ~ x + (1 | g) + (0 + x | g)"])
def test_the_better_of_two_minima(far_from_zero, formula):
    fit = mm.lmm(formula, far_from_zero)
    assert fit.converged and fit.deviance <= mm.lmm(formula, far_from_zero, start=[60.0, 6.0]).deviance + 1e-7
    assert fit.deviance < 787  # the inferior one: 1109.7


def test_a_second_start_only_where_effects_are_independent(sleep_ml, far_from_zero):
    assert level_start(sleep_ml.model.arrays) is None
    model = mm.Model.from_formula("y ~ x + (x || g)", far_from_zero)
    for start in (moment_start(model.arrays), level_start(model.arrays)):
        assert start is not None and np.all(start > 0) and np.all(np.isfinite(start))
