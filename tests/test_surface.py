"""The power surface: on rejections drawn from a known one, its slope by differences, and what cannot be said."""

import numpy as np
import pandas as pd
import pytest
from helpers import central, says
from scipy.stats import norm

import jaxmm as mm
from jaxmm.studies.surface import fit_surface, reciprocal_terms

GRID = [{"subject": s, "item": i} for s in (10, 20, 40, 80) for i in (8, 16, 32)]
TEST = ("Wald z", ("x",))


def true_power(subject, item):
    u = 0.01 + 1.2 / subject + 0.4 / item + 4 / (subject * item)
    return norm.sf(norm.isf(0.025) - 1 / np.sqrt(u)) + norm.cdf(-norm.isf(0.025) - 1 / np.sqrt(u))


def drawn(seed: int, n: int = 4000, grid=GRID) -> np.ndarray:
    """Rejections with random numbers in common."""
    share = np.array([true_power(**point) for point in grid])
    return (np.random.default_rng(seed).uniform(size=(n, 1)) < share).astype(float)


@pytest.fixture(scope="module")
def surface():
    return fit_surface(TEST, GRID, drawn(1), None, 0.05, 0.95)


def test_it_finds_the_power_that_is_true(surface):
    subject, item = np.array([15, 30, 50.0]), np.array([10, 20, 12.0])
    found = surface.at(subject=subject, item=item)
    z = (found["power"] - true_power(subject, item)) / found["power_mc"]
    assert np.all(np.abs(z) < 4) and not found["outside"].any()
    assert np.all(found["lower"] < found["power"]) and np.all(found["power"] < found["upper"])
    assert surface.misfit > 0.001 and surface.at(subject=200, item=8)["outside"].all()
    assert "Power surface of x (Wald z)" in repr(surface) and "1/(subject item)" in repr(surface)


def test_its_errors_are_those_of_repetition():
    some = [
        fit_surface(TEST, GRID, drawn(k, 1000), None, 0.05, 0.95).at(subject=30, item=20).iloc[0] for k in range(60)
    ]
    table = pd.DataFrame(some)
    assert table["power"].std() == pytest.approx(table["power_mc"].astype(float).mean(), rel=0.35)  # 60: ± 0.1
    covered = (table["lower"] < true_power(30, 20)) & (true_power(30, 20) < table["upper"])
    assert covered.mean() > 0.85


def test_the_gradient(surface):
    at = np.array([30.0, 20.0])
    slopes = central(lambda x: surface.at(subject=x[0], item=x[1])["power"][0], at, 1e-2)
    np.testing.assert_allclose(surface.gradient(subject=30, item=20), slopes, rtol=1e-6)


def test_the_smallest_size(surface):
    found = surface.smallest(0.8, item=16)
    exact = next(s for s in range(1, 400) if true_power(s, 16) >= 0.8)
    assert found["lower"] <= exact <= found["upper"] and abs(found["size"] - exact) < 0.2 * exact
    assert surface.at(subject=found["size"], item=16)["power"][0] >= 0.8
    assert surface.at(subject=found["size"] - 1, item=16)["power"][0] < 0.8
    with says(ValueError, "a power of 0.99 is not reached by any item"):
        surface.smallest(0.99, subject=5)


def test_other_terms():
    """Of a number that is no size: a variance that grows with it."""
    grid = [{"k": k, "icc": r} for k in (10, 20, 40) for r in (0.05, 0.1, 0.2)]
    u = np.array([(0.2 + 8 * p["icc"]) / p["k"] for p in grid])
    share = norm.sf(norm.isf(0.025) - 1 / np.sqrt(u))
    rejected = (np.random.default_rng(3).uniform(size=(5000, 1)) < share).astype(float)
    found = fit_surface(TEST, grid, rejected, lambda s: [1 / s["k"], s["icc"] / s["k"]], 0.05, 0.95)
    np.testing.assert_allclose(found.coefficients, [0.2, 8], rtol=0.2)
    assert found.gradient(k=20, icc=0.1)["icc"] < 0 and "term 2" in repr(found)


def test_of_a_curve(sleep_reml, headless):
    curve = mm.power_curve(
        sleep_reml, n=40, along={"Subject": [6, 9, 12], "repeats": [1, 2]}, key=1, test="Days", effects={"Days": 5.0},
        progress=False,
    )  # fmt: skip
    found = curve.smooth()
    table = curve.table
    smooth = found.at(Subject=table["Subject"], repeats=table["repeats"])
    assert np.all(np.abs(smooth["power"] - table["power"]) < 0.2) and found.test[1] == ("Days",)
    assert found.plot().get_xlabel() == "Subject" and found.plot(repeats=1).get_ylim() == (0, 1)
    one = mm.power_curve(sleep_reml, n=40, along={"Subject": [6, 9, 12]}, key=1, effects={"Days": 5.0}, progress=False)
    np.testing.assert_allclose(one.smooth().at(Subject=[6, 9, 12])["power"], one.table["smooth"], atol=1e-4)
    with says(ValueError, "one of 'Days', not 'x'"):
        curve.smooth("x")


def test_what_cannot_be_said(surface):
    with says(ValueError, "no size 'subjects'", "subject, item"):
        surface.at(subjects=3, item=2)
    with says(ValueError, "give a number for 'item' too"):
        surface.at(subject=3)
    with says(ValueError, "arrays of one length"):
        surface.at(subject=[1, 2, 3], item=[1, 2])
    with says(ValueError, "one number for each size"):
        surface.gradient(subject=[1, 2], item=3)
    with says(ValueError, "smallest seeks one size"):
        surface.smallest(0.8)
    with says(ValueError, "between alpha = 0.05 and 1", "1.5"):
        surface.smallest(1.5, item=3)
    with says(ValueError, "over one size or two, and 0 are not fixed"):
        surface.plot(subject=1, item=2)
    with says(ValueError, "4 terms", "cannot be told apart at 3 sizes"):
        fit_surface(TEST, GRID[:3], drawn(1, 50, GRID[:3]), lambda s: reciprocal_terms(list(s))[0](s), 0.05, 0.95)
    with says(ValueError, "one size only"):
        fit_surface(TEST, GRID[:1], drawn(1, 50, GRID[:1]), None, 0.05, 0.95)
    with says(ValueError, "the power is 1 at every size"):
        fit_surface(TEST, GRID, np.ones((50, 12)), None, 0.05, 0.95)
