"""The examples run at a small size, print what they promise and save their pictures."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PNG = b"\x89PNG\r\n"

pytest.importorskip("matplotlib")


def run(name: str, *arguments: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](list(arguments))


@pytest.fixture(autouse=True)
def figures_closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_quickstart(tmp_path, capsys):
    run("quickstart.py", "--out", str(tmp_path / "new"))
    printed = capsys.readouterr().out
    for part in (
        "18 levels x 2",
        "Subject  (Intercept)",
        "spread of the BLUPs",
        "share of the variance kept",
        "430.7",
    ):
        assert part in printed
    pictures = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert pictures == ["caterpillar.png", "shrinkage.png", "shrinkage_arrows.png"]
    assert all((tmp_path / "new" / p).read_bytes().startswith(PNG) for p in pictures)


def test_varcorr_or_blups(tmp_path, capsys):
    run("varcorr_or_blups.py", "--replicates", "4", "--subjects", "60", "--out", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    table = [line.replace("±", " ").split() for line in lines if line.split()[:1] in (["1"], ["10"])]
    assert [tuple(row[:3]) for row in table] == [
        ("10", "1", "2"),
        ("10", "1", "20"),
        ("1", "10", "20"),
        ("1", "10", "2"),
    ]
    for row in table:
        varcorr, blups, conditional, total, closed = map(float, row[3:13:2])
        assert total == pytest.approx(varcorr, abs=2e-4)
        assert total == pytest.approx(blups + conditional, abs=2e-4)
        assert closed == pytest.approx(blups, abs=2e-4)  # exact by REML in a balanced design
    assert float(table[0][-1]) == pytest.approx(100 / 10.5, abs=1e-4)
    check = next(line for line in lines if "these formulas and fit.ranef()" in line)
    assert float(check.split()[-1].rstrip(".")) < 1e-8
    assert any("16 data sets simulated and fitted in" in line and "16 of the fits converged" in line for line in lines)
    assert (tmp_path / "varcorr_or_blups.png").read_bytes().startswith(PNG)


def test_which_correlation(tmp_path, capsys):
    run("which_correlation.py", "--replicates", "3", "--subjects", "40", "--out", str(tmp_path))
    lines = [line.replace("±", " ").replace("%", "").split() for line in capsys.readouterr().out.splitlines()]

    correlation = next(line for line in lines if line[:1] == ["correlation"])
    assert float(correlation[1]) == -0.83
    assert all(-1 <= float(correlation[k]) <= 1 for k in (2, 5))
    assert float(correlation[8]) == pytest.approx(-0.98, abs=0.005)  # as in the question

    directions = [line for line in lines if line[-8:-7] in (["along"], ["across"])]
    assert len(directions) == 4
    for line in directions:
        D, error, kept, varcorr, unknown, modes, _ = map(float, line[-7:])
        assert 0 < kept < 100 and abs(kept - 100 * D / (D + error)) < 8
        assert unknown + modes == pytest.approx(varcorr, rel=0.1, abs=2e-3)

    truth = {line[1]: float(line[2]) for line in lines if line[:1] in (["fixef,"], ["marginal_coef,"])}
    assert truth == {"intercept": pytest.approx(1.411, abs=0.01), "slope": pytest.approx(-0.2693, abs=0.01)}
    assert any(line[:6] == "6 data sets simulated and fitted".split() for line in lines)
    assert (tmp_path / "which_correlation.png").read_bytes().startswith(PNG)


def test_own_structure(capsys):
    run("own_structure.py")
    text = capsys.readouterr().out
    assert "standard deviation 1.76 (drawn with 2.00)" in text and "day apart 0.58 (drawn with 0.67)" in text


def test_own_family(capsys):
    run("own_family.py", "--shops", "60")
    printed = capsys.readouterr().out
    assert "Family: truncated_poisson (log)" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.endswith(" s.e.")}
    for row in (rows["(Intercept)"], rows["discount"]):  # truth, estimate, its error, off by ..
        assert abs(float(row[4])) < 3.5
        assert float(row[4]) == pytest.approx((float(row[2]) - float(row[1])) / float(row[3]), abs=0.1)
    assert float(rows["(Intercept)"][8]) > 5  # Poisson's
    drawn = [line.split()[-2:] for line in printed.splitlines() if line.startswith("share of")]
    assert len(drawn) == 4 and all(abs(float(a) - float(b)) < 0.05 for a, b in drawn)


def test_power_curve(tmp_path, capsys):
    arguments = ("--replicates", "6", "--subjects", "8", "--items", "4", "--out", str(tmp_path))
    run("power_curve.py", *arguments)
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "Wald z  condhard  " in line]
    assert all(row[:3] == ["8", "4", "32"] for row in rows) and rows  # a wide table goes on below itself
    assert "condhard (Wald z, item = 4): a power of 0.8 is not reached by 8" in printed
    assert "6 experiments simulated and fitted in" in printed and "stays above 10.0 ms" in printed
    assert (tmp_path / "power_curve.png").read_bytes().startswith(PNG)

    known = runpy.run_path(str(EXAMPLES / "power_curve.py"))
    assert [known["by_formula"](items) for items in (24, 12, 3)] == [48, 104, float("inf")]


def test_stepped_wedge(tmp_path, capsys):
    run("stepped_wedge.py", "--replicates", "60", "--patients", "4", "16", "--out", str(tmp_path))
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith(("4 ", "16 "))]
    for row in rows:  # patients, rows of the trial, power, its interval, the curve, the formula
        assert int(row[1]) == 60 * int(row[0]) and float(row[3]) - 0.05 < float(row[6]) < float(row[4]) + 0.05
    assert len(rows) == 2 and "Without an effect z rejects in" in printed and "percentage points" in printed
    assert (tmp_path / "stepped_wedge.png").read_bytes().startswith(PNG)


def test_mass_univariate(tmp_path, capsys):
    run("mass_univariate.py", "--electrodes", "8", "--samples", "10", "--out", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("80 responses of 240 rows") and "100.00% converged" in lines[1]
    table = [line for line in lines if line.startswith(("z,", "t with"))]
    assert len(table) == 3
    found = [int(line.split()[-5]) for line in table]
    assert found[0] >= found[1] >= found[2] > 0
    assert (tmp_path / "mass_univariate.png").read_bytes().startswith(PNG)


def test_erp_clusters(tmp_path, capsys):
    small = ("--channels", "6", "--samples", "18", "--permutations", "40")
    run("erp_clusters.py", *small, "--out", str(tmp_path / "new"))
    printed = capsys.readouterr().out
    assert "t of condb in 108 responses, 40 permutations, scheme 'sign', statistic" in printed
    first = next(line.split() for line in printed.splitlines() if line.startswith("1 "))
    assert int(first[1]) > 3 and first[2] == "1" and float(first[-1]) <= 0.05
    assert "In plain words: 1 of" in printed and "4,320 fits in" in printed
    assert (tmp_path / "new" / "erp_clusters.png").read_bytes().startswith(PNG)


def test_single_cell_counts(tmp_path, capsys):
    run("single_cell_counts.py", "--genes", "40", "--cells", "12", "--out", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("40 genes, 96 cells of 8 donors;") and "% converged" in lines[1]
    with_donors, naive = (
        [int(x) for x in line.split()[-3:-1]] for line in lines if line.startswith(("with donors", "cells as"))
    )
    assert naive[0] > with_donors[0] > 0
    (errors,) = (line.split() for line in lines if "median error of log dispersion" in line)
    assert float(errors[-2]) < float(errors[5])
    assert (tmp_path / "single_cell_counts.png").read_bytes().startswith(PNG)


def test_bootstrap(tmp_path, capsys):
    run("bootstrap.py", "--replicates", "60", "--out", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Reaction ~ Days + (Days | Subject), 60 replicates")
    slowing, residual = ([x.split() for x in lines if x.startswith(start)] for start in ("mean slowing", "residual SD"))
    assert slowing[0][5:9] == ["10.47", "7.21", "..", "13.73"]
    assert [float(x) for x in slowing[1][5:9]] == pytest.approx([1.546] * 4, rel=0.3)
    low, high = ([float(x) for x in residual[0][k::3]] for k in (4, 6))
    assert len(low) == len(high) == 3 and max(low) < float(residual[0][3]) < min(high)
    rows = [line.split() for line in lines if line.startswith(("percentile", "basic"))]
    share = {row[0]: [float(x) for x in row[1:]] for row in rows}
    assert share["percentile"][1] <= 1 < share["basic"][1] and share["basic"][2] == 0.961
    assert (tmp_path / "bootstrap.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_every_example_says_what_it_answers_and_is_tested(name):
    text = (EXAMPLES / name).read_text()
    assert text.startswith('"""') and f"python examples/{name}" in text
    assert f"def test_{name.removesuffix('.py')}(" in Path(__file__).read_text()


def test_zero_inflation(capsys):
    run("zero_inflation.py", "--ponds", "40")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Zero inflation (logit), ~ mined + (1 | pond)") for line in lines)
    truths = [line.split() for line in lines if line.endswith("s.e.")]
    assert len(truths) == 4 and all(abs(float(row[4])) < 4 for row in truths)
    shares = next(line.split() for line in lines if line.startswith("P(extra zero)"))
    assert 0 < float(shares[2]) < float(shares[3]) < 1


def test_dropout_trial(tmp_path, capsys):
    run("dropout_trial.py", "--replicates", "4", "--patients", "12", "--out", str(tmp_path))
    printed = capsys.readouterr().out
    for part in ("y ~ arm * visit + (visit | patient), 12 patients, 4 trials", "by the one not seen", "In plain words"):
        assert part in printed
    assert (tmp_path / "dropout_trial.png").read_bytes().startswith(PNG)
