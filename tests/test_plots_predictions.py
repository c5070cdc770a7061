"""The picture of predictions: its lines and bands are those of ``predict``."""

import numpy as np
import pandas as pd
import pytest
from helpers import says

from jaxmm import DataError, plots

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("headless")
NEW = pd.DataFrame({"Days": [9, 0, 4] * 2, "Subject": ["308"] * 3 + ["new"] * 3})
OPTIONS = {"interval": "prediction", "new_levels": "sample", "ddf": "asymptotic"}


def test_lines_with_bands(sleep_reml):
    ax = plots.predictions(sleep_reml, NEW, "Days", by="Subject", **OPTIONS)
    ax.figure.canvas.draw()
    frame = sleep_reml.predict(NEW, **OPTIONS)
    for k, (line, band) in enumerate(zip(ax.get_lines(), ax.collections, strict=True)):
        own = frame.iloc[[3 * k + 1, 3 * k + 2, 3 * k]]
        np.testing.assert_array_equal(line.get_xdata(), [0, 4, 9])
        np.testing.assert_array_equal(line.get_ydata(), own["predicted"])
        ends = band.get_paths()[0].vertices[:, 1]
        assert (ends.min(), ends.max()) == (own["lower"].min(), own["upper"].max())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["308", "new"]
    assert ax.get_legend().get_title().get_text() == "95 % prediction intervals, by Subject"
    assert ax.get_ylabel() == "Reaction" and ax.get_xlabel() == "Days"


def test_points_with_bars(sleep_reml):
    ax = plots.predictions(sleep_reml, NEW[:4], "Subject", by="Days", **OPTIONS)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["308", "new"]
    assert len(ax.containers) == 3


def test_misuse(sleep_reml):
    with says(DataError, "newdata has no column 'day'; it has 'Days', 'Subject'"):
        plots.predictions(sleep_reml, NEW, "day")
    with says(ValueError, "a band is an interval"):
        plots.predictions(sleep_reml, NEW, "Days", interval=None)
    with says(ValueError, "by='k' has 8 values, and 7 lines are the most"):
        plots.predictions(sleep_reml, pd.DataFrame({"k": range(8), "Days": 1}), "Days", by="k", re="population")
