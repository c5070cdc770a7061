"""The benchmarks of many fits: their data follow the stated truth, their comparisons count, their commands run."""

import csv
import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.sources.truth import as_truth

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = {path.stem for path in BENCHMARKS.glob("*.py")} | {"libraries"}


@pytest.fixture(scope="module")
def modules():
    """name -> module of benchmarks/, whatever else has that name here."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in NAMES]

    others = {name: sys.modules.pop(name) for name in ours()}
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in ours():
        del sys.modules[name]
    sys.modules.update(others)


def command(*given: str, **environment: str) -> str:
    path = os.pathsep.join([str(BENCHMARKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    merged = {**os.environ, "PYTHONPATH": path, **environment}
    merged.pop("JAXMM_BENCH_PYTHON", None)
    script, *rest = given
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *rest], capture_output=True, text=True, env=merged, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def model_of(batches, batch):
    columns = batch.design(np.random.default_rng(batch.seed))
    frame = pd.DataFrame({name: c[0] if isinstance(c, tuple) else c for name, c in columns.items()})
    frame["y"] = batches.draw(batch, columns, 1, np.random.default_rng(0))[0]
    if batch.family:
        return mm.Model.from_formula(batch.formula, frame, family=mm.families.get(batch.family, link=batch.link))
    return mm.Model.from_formula(batch.formula, frame, reml=batch.reml)


def test_theta_is_that_of_the_truth(modules):
    batches = modules("batches")
    for batch in batches.BATCHES.values():
        model = model_of(batches, batch)
        np.testing.assert_allclose(batch.theta, as_truth(model, batch.truth).theta(model), rtol=1e-12)


def test_responses_follow_the_truth(modules):
    batches = modules("batches")
    batch = batches.BATCHES["batch_crossed30x20"]
    columns = batch.design(np.random.default_rng(batch.seed))
    n = 20_000
    rows = [0, 1, 20]  # the second shares the first one's subject, the third its item
    Y = np.concatenate([batches.draw(batch, columns, 1000, np.random.default_rng([1, k]))[:, rows] for k in range(20)])
    c = columns["c"][rows]
    np.testing.assert_allclose(Y.mean(axis=0), 0.3 * c, atol=5 * 1.4 / np.sqrt(n))
    basis = np.column_stack([np.ones(3), c])
    expected = np.eye(3)
    for group in ("s", "i"):
        _, (a, b), rho = batch.random[group]
        D = np.array([[a * a, rho * a * b], [rho * a * b, b * b]])
        expected += basis @ D @ basis.T * (columns[group][rows][:, None] == columns[group][rows])
    np.testing.assert_allclose(np.cov(Y.T), expected, atol=5 * 1.8 / np.sqrt(n))


def test_first_responses_do_not_depend_on_how_many_there_are(modules, tmp_path):
    batches = modules("batches")
    batch = batches.BATCHES["batch_cbpp"]
    few, many = (dataclasses.replace(batch, lanes=lanes) for lanes in (batches.BLOCK + 7, 3 * batches.BLOCK))
    Y = [batches.responses(b, batches.stage(b, tmp_path / str(b.lanes))) for b in (few, many)]
    assert [len(y) for y in Y] == [few.lanes, many.lanes]
    np.testing.assert_array_equal(Y[0], Y[1][: few.lanes])
    sizes = mm.datasets.load("cbpp")["size"].to_numpy()
    assert (Y[1] <= sizes).all() and (Y[1] == np.rint(Y[1])).all() and Y[1].min() == 0


def test_what_is_above_the_best_is_counted(modules, tmp_path):
    many = modules("many")
    (tmp_path / "deviances").mkdir()
    best = np.arange(6.0)
    reached = {"jaxmm": np.add(best, [0, 0, 0.02, 0, np.nan, 0]), "glmm": np.add(best[:4], [0.001, 0, 0, 3.0])}
    for peer, values in reached.items():
        values.tofile(many.deviances(tmp_path, peer, ""))
    rows = [{"peer": peer, "way": "", "status": "ok"} for peer in (*reached, "lme4")]
    ours, theirs, absent = many.compared(rows, tmp_path)
    assert (ours["above"], theirs["above"]) == (2, 1)  # a fit that failed counts
    assert ours["largest_gap"] == pytest.approx(0.02) and theirs["largest_gap"] == pytest.approx(3)
    assert "above" not in absent


def test_one_command(tmp_path):
    printed = command(
        "run.py", "power_intercept30x10", "--peer", "jaxmm", "lme4", "--seconds", "0.05", "--out", str(tmp_path)
    )
    with (tmp_path / "power_intercept30x10.csv").open(newline="") as file:
        ours, theirs = csv.DictReader(file)
    assert ours["status"] == "ok", ours
    assert float(ours["rate"]) > 0 and float(ours["compile_s"]) > 0
    assert 0.88 < float(ours["power"]) < 0.96 and int(ours["lanes"]) >= 1000
    assert theirs["status"].startswith("left out: ")
    assert "120,000" in printed
    tables = command("report.py", str(tmp_path))
    assert "### power_intercept30x10" in tables and "| fits/s |" in tables


def test_without_an_accelerator_nothing_is_measured(tmp_path):
    assert command("gpu.py", "--out", str(tmp_path), JAX_PLATFORMS="cpu").startswith("nothing measured: ")
    assert not list(tmp_path.iterdir())


def test_how_times_grow(modules):
    """Sizes are those that are asked for, and a fit of them gives its likelihood."""
    scaling = modules("scaling")
    for axis in ("rows", "levels", "crossed"):
        columns, size = scaling.data(axis, 200), 200
        grown = len(columns["y"]) if axis == "rows" else len(np.unique(columns.get("g", columns.get("a"))))
        assert grown == size
    call = scaling.single("rows", 1000, "jaxmm")
    assert np.isfinite(call()) and call() == call()
    assert scaling.AXES.keys() == scaling.ABOUT.keys()


def test_trials_of_repeated_measures(modules):
    """Values go missing as it is said, variances grow as it is said, and what was recorded has converged."""
    mmrm = modules("mmrm")
    C = mmrm.covariance(np.random.default_rng(1))
    np.testing.assert_allclose(np.diag(C), 1 + 0.5 * np.arange(10))
    for level, last in (("none", 0.0), ("mild", 0.163), ("moderate", 0.369), ("high", 0.655)):
        table = mmrm.trial(4000, 10, level, 1)
        seen = table.groupby("AVISIT", observed=True).size() / 4000
        assert seen.iloc[-1] == pytest.approx(1 - last, abs=0.03) and seen.iloc[0] >= 0.96
    table, formula = mmrm.task("bcva", 0)
    assert len(table) == 8605 and table.USUBJID.nunique() == 1000 and set(formula.split()) & set(table) >= {"BCVA_CHG"}
    assert len(mmrm.task("fev", 0)[0]) == 537
    rows = mmrm.found()
    assert (rows.query("peer == 'jaxmm'")["converged"] == "True").all()
    ends = rows.pivot(index=["case", "replicate"], columns="peer", values="neg2_loglik")
    assert (ends["jaxmm"] - ends["gls"]).max() < 1e-7
