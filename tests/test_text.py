"""Numbers as text."""

import numpy as np
import pandas as pd
import pytest

from jaxmm import _text
from jaxmm.inference.compare import Comparison


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "<1e-16"), (9e-17, "<1e-16"), (1e-16, "1e-16"), (2.2e-16, "2.2e-16"), (0.04567, "0.0457"), (1.0, "1")],
)
def test_p_values_are_never_zero(p, text):
    assert _text.p_value(p) == text


def test_a_p_value_that_is_none():
    assert _text.p_value(np.nan) == "NaN"
    assert _text.p_value(0.0456789, 5) == "0.045679"


def test_a_comparison_prints_no_zero():
    table = pd.DataFrame({"chisq": [np.nan, 900.0], "df": [np.nan, 1.0], "p": [np.nan, 0.0]}, ["fit0", "fit1"])
    shown = Comparison(table, {}, ())
    assert repr(shown).splitlines()[-1].split() == ["fit1", "900", "1", "<1e-16"]
    assert "nan" not in repr(shown).lower() and "&lt;1e-16" in shown._repr_html_()
    assert shown.to_frame()["p"].iloc[1] == 0.0
