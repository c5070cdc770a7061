"""The shipped tables: their shapes, types and level orders, sums of their values, and their descriptions."""

import pandas as pd
import pytest
from reference import grids

from jaxmm import datasets

# name: (shape, number of levels per factor, sum per number)
EXPECTED = {
    "sleepstudy": ((180, 3), {"Subject": 18}, {"Reaction": 53731.4205, "Days": 810}),
    "dyestuff": ((30, 2), {"Batch": 6}, {"Yield": 45825}),
    "dyestuff2": ((30, 2), {"Batch": 6}, {"Yield": 169.968}),
    "penicillin": ((144, 3), {"plate": 24, "sample": 6}, {"diameter": 3308}),
    "pastes": ((60, 4), {"batch": 10, "cask": 3, "sample": 30}, {"strength": 3603.2}),
    "machines": ((54, 3), {"Worker": 6, "Machine": 3}, {"score": 3221.1}),
    "oats": ((72, 4), {"Block": 6, "Variety": 3}, {"nitro": 21.6, "yield": 7486}),
    "cbpp": ((56, 4), {"herd": 15, "period": 4}, {"incidence": 99, "size": 842}),
    "grouseticks": (
        (403, 7),
        {"INDEX": 403, "BROOD": 118, "YEAR": 3, "LOCATION": 63},
        {"TICKS": 2567, "HEIGHT": 186283, "cHEIGHT": 0.0},
    ),
}


def test_every_table_is_expected_here():
    assert datasets.names() == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_shape_levels_and_sums(name):
    shape, levels, sums = EXPECTED[name]
    frame = datasets.load(name)
    assert frame.shape == shape
    assert not frame.isna().any(axis=None)
    assert set(frame.columns) == set(levels) | set(sums)
    for column, count in levels.items():
        assert isinstance(frame[column].dtype, pd.CategoricalDtype)
        assert frame[column].nunique() == len(frame[column].cat.categories) == count
    for column, total in sums.items():
        assert frame[column].sum() == pytest.approx(total, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("name", grids.GRIDS)
def test_files_are_those_that_the_grids_make(name):
    assert (grids.FOLDER / f"{name}.csv").read_text(encoding="utf-8") == grids.text(name)


def test_level_orders():
    machines, oats = datasets.load("machines"), datasets.load("oats")
    assert machines["Worker"].cat.ordered and list(machines["Worker"].cat.categories) == list("624135")
    assert oats["Block"].cat.ordered and list(oats["Block"].cat.categories) == "VI V III IV II I".split()
    assert not machines["Machine"].cat.ordered
    assert list(oats["Variety"].cat.categories) == ["Golden Rain", "Marvellous", "Victory"]
    assert list(datasets.load("cbpp")["herd"].cat.categories) == [str(k) for k in range(1, 16)]
    assert list(datasets.load("sleepstudy")["Subject"].cat.categories[:3]) == ["308", "309", "310"]


def test_first_and_last_values():
    sleepstudy = datasets.load("sleepstudy")
    assert sleepstudy.iloc[0].tolist() == [249.56, 0, "308"]
    assert sleepstudy.iloc[-1].tolist() == [364.1236, 9, "372"]
    assert datasets.load("pastes")["sample"].iloc[-1] == "J:c"


def test_counts_are_integers_and_measurements_floats():
    assert datasets.load("cbpp")[["incidence", "size"]].dtypes.eq("int64").all()
    assert datasets.load("penicillin")["diameter"].dtype == "float64"


def test_each_load_is_a_fresh_frame():
    changed = datasets.load("dyestuff")
    changed.loc[0, "Yield"] = 0.0
    assert datasets.load("dyestuff").loc[0, "Yield"] == 1545.0


@pytest.mark.parametrize("name", EXPECTED)
def test_description_names_source_and_every_variable(name):
    text = datasets.describe(name)
    assert text.startswith(f"{name}: ")
    assert "Values: " in text and "Terms: " in text
    assert "Source: " in text and any(f"({year})" in text for year in range(1900, 2025))
    for column in datasets.load(name).columns:
        assert f"\n  {column} " in text
    assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize("call", [datasets.load, datasets.describe])
def test_unknown_name_lists_the_names(call):
    with pytest.raises(ValueError, match=r"no data set named 'sleep'; there are sleepstudy, dyestuff, .*grouseticks"):
        call("sleep")
