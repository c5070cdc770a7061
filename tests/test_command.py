"""``python -m jaxmm``: what a specification means, its errors by their keys, shards, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.command.main import DONE, FAILED, UNFINISHED, WRONG, main
from jaxmm.command.spec import Spec

pytest.importorskip("pyarrow")
SPEC = """
formula = "y ~ x + (1 | g)"
n = 6
key = 1
out = "results"
batch = 8

[design]
levels = { g = 5 }
within = { x = [0, 1, 3] }

[truth]
fixef = { "(Intercept)" = 10.0, x = 0.5 }
sd = 2.0
sigma = 1.5
"""


@pytest.fixture
def spec(tmp_path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def expected() -> mm.StudyResult:
    model = mm.plan("y ~ x + (1 | g)", mm.make_design({"g": 5}, within={"x": [0, 1, 3]}))
    truth = {"fixef": {"(Intercept)": 10.0, "x": 0.5}, "sd": 2.0, "sigma": 1.5}
    return mm.study(model, truth, 6, key=1, batch=8, progress=False)


def test_a_study_by_shards(spec, capsys):
    results = spec.parent / "results"
    assert main(["status", str(results)]) == WRONG
    assert main(["collect", str(spec)]) == WRONG
    assert main(["study", str(spec), "--shard", "2/2", "--quiet"]) == DONE
    out, err = capsys.readouterr()
    assert out == f"shard 2 of 2 is done: 3 replicates in '{results}'\n" and "holds no results" in err
    assert main(["status", str(results)]) == UNFINISHED
    assert "3 of 6 replicates\n  shard 1 of 2 lacks 0 .. 2 (it was never begun)" in capsys.readouterr().out
    assert main(["collect", str(spec)]) == UNFINISHED
    assert "not all shards are done" in capsys.readouterr().err
    assert main(["study", str(spec), "--shard", "1/2", "--quiet"]) == DONE
    assert main(["status", str(results)]) == DONE
    table = spec.parent / "table.csv"
    capsys.readouterr()
    assert main(["collect", str(spec), "--table", str(table)]) == DONE
    out, err = capsys.readouterr()
    found = expected()
    assert out == f"{found}\n" and not err
    np.testing.assert_array_equal(pd.read_csv(table, float_precision="round_trip")["x"], found.batch.fixef[:, 1])


def test_a_whole_study_without_a_folder(spec, capsys):
    changed(spec, 'out = "results"\n', "")
    assert main(["study", str(spec)]) == DONE
    out, err = capsys.readouterr()
    assert out == f"{expected()}\n" and "6.00/6.00" in err
    assert not (spec.parent / "results").exists()
    assert main(["study", str(spec), "--shard", "1/2"]) == WRONG
    assert "spec.toml': out is lacking" in capsys.readouterr().err
    assert main(["study", str(spec), "--shard", "3/2"]) == WRONG
    assert "--shard: shard must be '3/16'" in capsys.readouterr().err


def test_a_table_from_a_file(spec):
    mm.make_design({"g": 5}, within={"x": [0, 1, 3]}).to_csv(spec.parent / "t.csv", index=False)
    head, rest = SPEC.split("[design]")
    spec.write_text(head + 'data = "t.csv"\n\n[truth]' + rest.split("[truth]")[1])
    found = Spec.read(spec).run(None, progress=False)
    np.testing.assert_array_equal(found.batch.fixef, expected().batch.fixef)


ERRORS = [
    ("n = 6", "n = 6\nwidth = 3", "width is not known; there are formula, data"),
    ("n = 6", "", "n is lacking; it must be a whole number"),
    ("n = 6", "n = 6.5", "n is 6.5; it must be a whole number"),
    ("n = 6", "n = true", "n is True; it must be a whole number"),
    ("n = 6", "n = 0", "n is 0; it must be positive"),
    ("n = 6", "n = 6\nalpha = 5", "alpha is 5; it must be between 0 and 1"),
    ("n = 6", "n = = 6", "is not TOML"),
    ("n = 6", 'n = 6\ndata = "t.csv"', "data or design says which rows the study has, one of the two, and both"),
    ("n = 6", 'n = 6\nlrt = ["z"]', "lrt cannot be used: .*'z'"),
    ("n = 6", 'n = 6\nfamily = "poison"', "formula, family cannot be used: .*poison"),
    ("n = 6", "n = 6\ncontrol = { steps = 3 }", "control cannot be used: .*steps"),
    ("(1 | g)", "(1 | h)", "formula cannot be used: .*h"),
    ("(1 | g)", "(1 | g", "formula cannot be used: "),
    ("levels = { g = 5 }", "levels = { g = 0 }", "design cannot be used: .*'g'"),
    ("levels = { g = 5 }", "levels = { g = 5 }\nseed = 3", "design.seed is not known"),
    ("sigma = 1.5", 'sigma = "1.5"', "truth.sigma is '1.5'; it must be a number"),
    ("sigma = 1.5", "", "truth cannot be used: .*sigma"),
    ("x = 0.5", "z = 0.5", "truth cannot be used: .*'z'"),
]


@pytest.mark.parametrize(("old", "new", "message"), ERRORS)
def test_errors_name_the_key(old, new, message, spec, capsys):
    assert main(["study", str(changed(spec, old, new))]) == WRONG
    err = capsys.readouterr().err
    assert err.startswith(f"jaxmm: '{spec}'")
    assert re.search(message, err), err
    assert not (spec.parent / "results").exists()


def test_what_cannot_be_read(spec, capsys):
    assert main(["study", str(spec.parent / "none.toml")]) == WRONG
    assert "none.toml' cannot be read" in capsys.readouterr().err
    head, rest = SPEC.split("[design]")
    for name, message in (
        ("t.xlsx", r"a table is read from .csv, .tsv, .parquet"),
        ("t.csv", "data cannot be read from"),
    ):
        spec.write_text(head + f'data = "{name}"\n\n[truth]' + rest.split("[truth]")[1])
        assert main(["study", str(spec)]) == WRONG
        assert message in capsys.readouterr().err


def test_a_folder_of_another_study_fails(spec, capsys):
    assert main(["study", str(spec), "--quiet"]) == DONE
    assert main(["study", str(changed(spec, "key = 1", "key = 2")), "--quiet"]) == FAILED
    assert "holds the results of another study" in capsys.readouterr().err
    (spec.parent / "results" / "full" / "study.json").write_text("{}")
    assert main(["status", str(spec.parent / "results")]) == FAILED


def test_help(capsys):
    assert main(["--help"]) == DONE
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("study", "status", "collect", "exit codes"))
    assert main(["study", "--help"]) == DONE
    shown = capsys.readouterr().out
    example = shown[shown.index("  formula =") : shown.index("in the place of [design]")]
    assert "--shard i/k" in shown and "[truth]" in example
    assert main([]) == WRONG and main(["studdy"]) == WRONG


def test_the_example_of_the_help_is_one(tmp_path, capsys):
    main(["study", "--help"])
    shown = capsys.readouterr().out
    path = tmp_path / "spec.toml"
    path.write_text(shown[shown.index("  formula =") : shown.index("in the place of [design]")])
    spec = Spec.read(path)
    assert spec.model().design.columns == ("(Intercept)", "armdrug", "week", "armdrug:week")
    mm.Simulated(spec.model(), spec.entries["truth"], 1, key=1)


def test_as_a_program(spec):
    """One process; without standard error too."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(mm.__file__).parents[1]), *sys.path[1:]])}
    line = f'"{sys.executable}" -m jaxmm study "{spec}" 2>&-'
    done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == DONE
    assert done.stdout == f"{expected()}\n"
