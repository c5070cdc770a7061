"""Pictures of residuals and modes: the numbers drawn, the band, what they refuse."""

import numpy as np
import pytest
from glmm_fits import fitted
from helpers import says
from scipy.special import ndtr

from jaxmm import plots
from jaxmm.diagnose.pictures import _smooth, band
from jaxmm.diagnose.standardised import modes, rows

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("headless")


@pytest.mark.parametrize("n", [10, 75, 400])
def test_the_band_holds_normal_numbers(n, sets=2000):
    low, high = band(n)
    x = np.sort(np.random.default_rng(n).normal(size=(sets, n)), axis=1)
    inside = np.mean(np.all((x > low) & (x < high), axis=1))
    assert inside == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / sets) + 0.005)
    assert np.allclose(low, -high[::-1]) and np.all(ndtr(high) < 1)


def test_residuals(sleep_reml):
    ax = plots.residuals(sleep_reml)
    ax.figure.canvas.draw()
    points = next(line for line in ax.get_lines() if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xdata(), sleep_reml.fitted())
    np.testing.assert_allclose(points.get_ydata(), sleep_reml.residuals() / sleep_reml.sigma)
    assert "σ" in ax.get_ylabel() and ax.get_xlabel() == "fitted Reaction"
    assert {t.get_text() for t in ax.texts} == {"56", "57", "59"} or len(ax.texts) == 3
    given = plots.residuals(fitted("poisson"))
    assert given.get_ylabel() == "Pearson residual"


def test_quantiles(sleep_reml):
    ax = plots.qq(sleep_reml)
    drawn = np.sort(np.concatenate([line.get_ydata() for line in ax.get_lines() if line.get_marker() in "oD"]))
    np.testing.assert_allclose(drawn, np.sort(rows(sleep_reml)))
    with says(ValueError, "residuals of a poisson model are not normal", "simulated_residuals"):
        plots.qq(fitted("poisson"))


def test_quantiles_of_modes(weighted):
    axes = plots.qq_ranef(weighted, "g")
    assert [a.get_title() for a in axes] == ["g: (Intercept)", "g: x"]
    axes[0].figure.canvas.draw()
    drawn = np.concatenate([line.get_ydata() for line in axes[1].get_lines() if line.get_marker() in "oD"])
    np.testing.assert_allclose(np.sort(drawn), np.sort(modes(weighted, "g").z["x"]))
    with says(ValueError, "no grouping factor 'k'"):
        plots.qq_ranef(weighted, "k")
    with says(ValueError, "axes must be 1, one for each effect of h, not 2"):
        plots.qq_ranef(weighted, "h", axes)


def test_both_at_once(sleep_reml):
    assert [a.get_title() for a in sleep_reml.plot_residuals()] == ["Residuals", "Q-Q of residuals"]
    assert len(fitted("poisson").plot_residuals()) == 1


def test_the_smooth_line_is_straight_where_the_points_are():
    x = np.linspace(0, 4, 60) ** 2
    at, mean, spread = _smooth(x, 2 * x - 3)
    np.testing.assert_allclose(mean, 2 * at - 3, atol=1e-8)
    assert len(at) == len(spread) and np.all(np.diff(at) > 0)
