"""What users meet first: the names of the package, its map, what completion shows."""

import re

import jaxmm as mm

MAP = mm.__doc__ or ""


def test_the_package_shows_its_public_names_alone():
    shown = [name for name in dir(mm) if not name.startswith("_")]
    assert shown == sorted(mm.__all__) and len(set(shown)) == len(shown)
    assert all(hasattr(mm, name) for name in shown)
    assert "gram" not in shown and mm.gram is not None  # still to be had by those who know it


def test_the_map_names_each_public_name_and_no_other():
    assert len(MAP.splitlines()) <= 60 and max(map(len, MAP.splitlines())) <= 120
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*)(?:  +\S| \S|$)", MAP, re.M)
    named = [name for entry in entries for name in entry.split(", ")]
    assert sorted(named) == sorted(mm.__all__)


def test_a_fit_shows_no_internals():
    shown = set(object.__new__(mm.Fit).__dir__())
    assert {"varcorr", "coef_table", "emmeans", "predict", "bootstrap", "check", "to_latex"} <= shown
    assert not shown & {"effects", "modes", "factor_lam", "endog_names"} and hasattr(mm.Fit, "modes")
