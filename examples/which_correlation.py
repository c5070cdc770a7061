"""Which correlation is to be believed: VarCorr's or that of the BLUPs?

A simulation of a real question. A logistic model of accuracy, 13,037 trials of 218 subjects,

    accuracy ~ x + (x | subject)

gave a correlation of intercept and slope of -0.83 with the variances 0.245 and 0.0321; the BLUPs of the same fit
had a correlation of -0.98 and the variances 0.163 and 0.0158. Here the first are the truth, data sets are drawn
from it and fitted, and the second come out again.

    D = mean conditional covariance + covariance of the modes

says why. Let a direction in the plane of intercept and slope be one in which subjects have the variance d, and
one subject's own trials the error variance e. The BLUPs keep about the share d/(d + e) of it: much of the long
axis of D, little of the short one. Where both are measured alike what is left is a thinner ellipse, with a
correlation nearer to 1 or -1; where they are not, about any correlation may be left.

    python examples/which_correlation.py [--replicates 200] [--subjects 218] [--n-agq 1] [--seed 5]
                                         [--out FOLDER]
"""

import argparse
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
BETA = np.array([1.493, -0.322])
QUESTION = [0.163, 0.0158, -0.98]  # the BLUPs' variances and correlation of the data set that raised it
VARIANCES, CORRELATION = np.array([0.245, 0.0321]), -0.83
SD = np.sqrt(VARIANCES)
D = np.outer(SD, SD) * np.array([[1, CORRELATION], [CORRELATION, 1]])
AXES = np.linalg.eigh(D)[1].T[::-1]  # the long axis of D, and the short one across it
AXES = AXES * np.sign(AXES[:, [0]])
TRIALS = 13037 / 218  # of a subject, on average
UNKNOWN, GREY, BLUPS, TRUTH = "#d55e00", "#7a7a7a", "#0072b2", "#222222"
PIECES = 6  # of the range of x, where the probabilities are averaged
NEAR = 0.07  # the truth: a correlation within this distance
MORE = (1, 4, 16, 64)  # times the trials
RADIUS = np.sqrt(-2 * np.log(0.05))  # in standard deviations, of the ellipse that holds 95%


@dataclass
class Setting:
    """Trials with x uniform between `low` and `high`, and what their data sets gave: a row each in `results`."""

    low: float
    high: float
    subject: np.ndarray
    x: np.ndarray
    results: pd.DataFrame = field(default_factory=pd.DataFrame)
    correct: np.ndarray = field(default_factory=lambda: np.zeros(PIECES))
    people: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    information: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 2)))
    first: mm.Fit | None = None
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"x from {self.low:g} to {self.high:g}"

    def mean(self, kind: str) -> np.ndarray:
        """The mean over data sets of the covariance matrix `kind`."""
        a, b, c = self.results[[f"{kind} intercept", f"{kind} slope", f"{kind} covariance"]].mean()
        return np.array([[a, c], [c, b]])

    def expected(self, times: float = 1) -> np.ndarray:
        """The covariance of the modes where D is known, with `times` as many trials."""
        return D - np.linalg.inv(np.linalg.inv(D) + times * self.information).mean(axis=0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=200, help="data sets per setting")
    parser.add_argument("--subjects", type=int, default=218)
    parser.add_argument("--n-agq", type=int, default=1, help="quadrature nodes; 1 is Laplace's method")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    settings = [design(low, high, asked.subjects, asked.seed) for low, high in ((-1.5, 1.5), (1, 4))]
    for k, setting in enumerate(settings):
        # 1 + k, since [seed, 0, 0] would give the random numbers of `design` again
        run(setting, asked.replicates, [asked.seed, 1 + k], asked.n_agq)

    print(report(settings, asked.replicates))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "which_correlation.png"
    picture(settings).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


# ---------------------------------------------------------------- simulation
def design(low: float, high: float, subjects: int, seed: int) -> Setting:
    """Numbers of trials that differ from subject to subject, in all 13,037 where there are 218."""
    rng = np.random.default_rng(seed)
    shares = rng.gamma(16, size=subjects)
    trials = np.maximum(10, shares / shares.sum() * TRIALS * subjects).astype(int)
    trials[: round(TRIALS * subjects) - trials.sum()] += 1
    subject = np.repeat(np.arange(subjects), trials)
    return Setting(low, high, subject, rng.uniform(low, high, len(subject)))


def run(setting: Setting, replicates: int, seed: list[int], n_agq: int = 1) -> None:
    """Simulate and refit; data set r depends on the seed and on r alone."""
    x, subject, subjects = setting.x, setting.subject, setting.subject[-1] + 1
    piece = np.minimum(PIECES * (x - setting.low) / (setting.high - setting.low), PIECES - 1).astype(int)
    rows = []
    began = time.perf_counter()
    for r in range(replicates):
        rng = np.random.default_rng([*seed, r])
        b = rng.multivariate_normal([0, 0], D, subjects)
        p = expit(BETA[0] + b[subject, 0] + (BETA[1] + b[subject, 1]) * x)
        accuracy = (rng.random(len(p)) < p).astype(float)
        if r == 0:
            data = {"accuracy": accuracy, "x": x, "subject": subject}
            fit = mm.glmm("accuracy ~ x + (x | subject)", data, "binomial", n_agq=n_agq)
            setting.first, setting.people, setting.information = fit, b, information(x, subject, p)
        else:
            fit = setting.first.refit(accuracy)  # compiles nothing
        rows.append(read_off(fit))
        setting.correct += np.bincount(piece, p, PIECES) / np.bincount(piece, minlength=PIECES) / replicates
    setting.seconds = time.perf_counter() - began
    setting.results = pd.DataFrame(rows)


def read_off(fit: mm.Fit) -> dict[str, float]:
    shrinkage = fit.shrinkage()
    row = {"singular": fit.is_singular}
    for name, covariances in (
        ("VarCorr", shrinkage.D),
        ("unknown", shrinkage.mean_cond_cov),
        ("modes", shrinkage.cov_modes),
        ("BLUPs", shrinkage.sample_cov_modes),
    ):
        covariance = covariances["subject"].to_numpy()
        row[f"{name} intercept"], row[f"{name} slope"] = np.diag(covariance)
        row[f"{name} covariance"], row[f"{name} correlation"] = covariance[0, 1], correlation(covariance)
    for name, coefficients in (("one subject", fit.fixef), ("all", fit.marginal_coef()["estimate"])):
        row[f"{name}: (Intercept)"], row[f"{name}: x"] = coefficients
    return row


def information(x: np.ndarray, subject: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(J, 2, 2) what each subject's own trials say of its intercept and slope: the inverse of their errors'
    covariance."""
    sums = [np.bincount(subject, p * (1 - p) * x**k) for k in range(3)]
    return np.stack([np.stack(sums[:2], -1), np.stack(sums[1:], -1)], -2)


def expit(eta: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-eta))


def correlation(covariance: np.ndarray) -> float:
    scale = np.sqrt(np.diag(covariance).prod())
    return covariance[0, 1] / scale if scale > 0 else np.nan


def marginal_truth(setting: Setting) -> np.ndarray:
    """Intercept and slope of the logit of the probability averaged over subjects, by least squares on x."""
    X = np.column_stack([np.ones_like(setting.x), setting.x])
    t = np.linspace(-8, 8, 161)
    mass = np.exp(-0.5 * t**2) / np.exp(-0.5 * t**2).sum()
    sd = np.sqrt(np.einsum("ni,ij,nj->n", X, D, X))
    p = sum(m * expit(X @ BETA + sd * node) for node, m in zip(t, mass, strict=True))
    return np.linalg.lstsq(X, np.log(p / (1 - p)))[0]


def along_and_across(covariance: np.ndarray) -> np.ndarray:
    """The variances in the directions of D's axes."""
    return np.einsum("ki,ij,kj->k", AXES, covariance, AXES)


# ---------------------------------------------------------------- words
def report(settings: list[Setting], replicates: int) -> str:
    asked = settings[0]
    trials = np.bincount(asked.subject)
    fits, total = replicates * len(settings), sum(s.seconds for s in settings)
    parts = [
        f"{len(trials)} subjects, {len(asked.x):,} trials, {trials.min()} to {trials.max()} each, {asked.title}; "
        f"{replicates} data sets",
        "What the two estimate: means over the data sets ± their Monte-Carlo errors, and standard deviations",
        f"{estimates(asked).to_string()}\n* mean over the {len(alike(asked))} data sets with VarCorr's correlation "
        f"within {NEAR} of the truth",
        "Why they differ: variances in the plane of intercept and slope, along the long axis of D, "
        f"({AXES[0, 0]:+.2f}, {AXES[0, 1]:+.2f}), and across it",
        directions(settings).to_string(),
        "D        among subjects, the truth\n"
        "error    of what a subject's own trials alone say of it; the BLUPs keep about D / (D + error)\n"
        "VarCorr  unknown (mean conditional variance) + modes (mean square of the BLUPs), nearly so in a model like\n"
        "         this; means over the data sets",
        f"Axes and correlations of these three, {asked.title}",
        axes(asked).to_string(),
        "The same subjects, other trials: the correlation",
        others(settings).to_string(),
        "Within a subject (fixef) and on average over all subjects (marginal_coef)",
        slopes(asked).to_string(),
        curves(asked).to_string(index=False, float_format="{:.4f}".format),
        f"{fits:,} data sets simulated and fitted in {total:.0f} s, {1e3 * total / fits:.0f} ms each.",
        *(textwrap.fill(paragraph, 110) for paragraph in in_words(asked, settings[1])),
    ]
    return "\n\n".join(parts)


def with_error(values: pd.Series, digits: int = 4) -> str:
    values = values.dropna()
    return f"{values.mean():.{digits}f} ± {values.std() / np.sqrt(len(values)):.{digits}f}"


def estimates(s: Setting) -> pd.DataFrame:
    known = s.expected()
    rows = {}
    for label, kind, truth, *others in (
        ("variance of intercepts", "intercept", D[0, 0], known[0, 0], QUESTION[0]),
        ("variance of slopes", "slope", D[1, 1], known[1, 1], QUESTION[1]),
        ("correlation", "correlation", CORRELATION, correlation(known), QUESTION[2]),
    ):
        varcorr, blups = s.results[f"VarCorr {kind}"], s.results[f"BLUPs {kind}"]
        rows[label] = [f"{truth:.4f}", with_error(varcorr), f"{varcorr.std():.3f}"]
        rows[label] += [with_error(blups), f"{blups.std():.3f}", *(f"{value:.4f}" for value in others)]
    for label, value in (
        ("  its median", lambda kind: s.results[f"{kind} correlation"].median()),
        ("  of the mean covariances", lambda kind: correlation(s.mean(kind))),
        ("  as VarCorr's in the question *", lambda kind: alike(s)[f"{kind} correlation"].mean()),
        ("  share of data sets at -1", lambda kind: at_limit(s, kind)),
    ):
        rows[label] = ["", f"{value('VarCorr'):.4f}         ", "", f"{value('BLUPs'):.4f}         ", "", "", ""]
    columns = ["truth", "VarCorr", "sd", "BLUPs", "sd", "if D is known", "in the question"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def alike(s: Setting) -> pd.DataFrame:
    """The data sets whose correlation by VarCorr is about that of the question."""
    return s.results[(s.results["VarCorr correlation"] - CORRELATION).abs() < NEAR]


def at_limit(s: Setting, kind: str = "VarCorr") -> float:
    """The share of data sets with a correlation of -1."""
    return float((s.results[f"{kind} correlation"] < -0.99999).mean())


def directions(settings: list[Setting]) -> pd.DataFrame:
    rows = {}
    for s in settings:
        known, error = s.expected(), np.linalg.inv(s.information.mean(axis=0))
        matrices = [D, error, known, s.mean("VarCorr"), s.mean("unknown"), s.mean("modes")]
        for k, name in enumerate(("along", "across")):
            truth, e, kept, varcorr, unknown, modes = (along_and_across(m)[k] for m in matrices)
            rows[f"{s.title}, {name}"] = [f"{truth:.4f}", f"{e:.4f}", f"{kept / truth:.0%}"]
            rows[f"{s.title}, {name}"] += [f"{v:.4f}" for v in (varcorr, unknown, modes)] + [f"{modes / varcorr:.0%}"]
    columns = ["D", "error", "kept if D is known", "VarCorr", "= unknown", "+ modes", "kept"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def axes(s: Setting) -> pd.DataFrame:
    rows = {}
    for label, kind in (("VarCorr", "VarCorr"), ("= unknown", "unknown"), ("+ modes", "modes")):
        values, vectors = np.linalg.eigh(s.mean(kind))
        a, b = vectors[:, 1] * np.sign(vectors[0, 1])
        rows[label] = [f"({a:+.2f}, {b:+.2f})", *(f"{v:.4f}" for v in values[::-1]), f"{correlation(s.mean(kind)):.3f}"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["long axis", "along", "across", "correlation"])


def others(settings: list[Setting]) -> pd.DataFrame:
    rows = {
        s.title: [with_error(s.results[f"{kind} correlation"], 3) for kind in ("VarCorr", "BLUPs")]
        + [f"{correlation(s.expected(times)):.3f}" for times in MORE]
        for s in settings
    }
    columns = ["VarCorr", "BLUPs", "if D is known", *(f"{times} x the trials" for times in MORE[1:])]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def slopes(s: Setting) -> pd.DataFrame:
    truth = {"one subject": BETA, "all": marginal_truth(s)}
    rows = {
        f"{name}, {what}": [f"{truth[kind][k]:.4f}", with_error(s.results[f"{kind}: {column}"])]
        for kind, name in (("one subject", "fixef"), ("all", "marginal_coef"))
        for k, (column, what) in enumerate((("(Intercept)", "intercept"), ("x", "slope")))
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["truth", "estimate"])


def curves(s: Setting) -> pd.DataFrame:
    """What the simulated subjects got right on average, and the two fitted curves, in pieces of the range of x."""
    x = s.low + (np.arange(PIECES) + 0.5) / PIECES * (s.high - s.low)
    table = pd.DataFrame({"x": x, "correct, average of all subjects": s.correct})
    for kind, name in (("all", "marginal curve"), ("one subject", "curve of a subject with b = 0")):
        table[name] = curve(s, kind, x)
    return table


def curve(s: Setting, kind: str, x: np.ndarray) -> np.ndarray:
    return expit(s.results[f"{kind}: (Intercept)"].mean() + s.results[f"{kind}: x"].mean() * x)


def in_words(s: Setting, other: Setting) -> list[str]:
    varcorr, blups = s.results["VarCorr correlation"], s.results["BLUPs correlation"]
    truth = along_and_across(D)
    error, error_other = (along_and_across(np.linalg.inv(x.information.mean(axis=0))) for x in (s, other))
    kept = along_and_across(s.expected()) / truth
    within, average = s.results["one subject: x"].mean(), s.results["all: x"].mean()
    many = MORE[-1]
    return [
        "In plain words: believe VarCorr's correlation. It answers how intercept and slope go together among people "
        f"in general: the truth here is {CORRELATION}, and it came out as {varcorr.mean():.2f} on average. The "
        "correlation of the BLUPs, the predicted random effects of the subjects at hand, answers another question. "
        f"In the same data sets it was {blups.mean():.2f} on average; where VarCorr's was near {CORRELATION}, as in "
        f"the question, it was {alike(s)['BLUPs correlation'].mean():.2f}.",
        "Why? Each subject's random effects are predicted from that subject's own answers, some "
        f"{len(s.x) / len(s.information):.0f} of them, right or wrong, and the prediction is cautious: what may be "
        "chance is taken for chance. Now subjects differ much in one respect: whoever is more accurate at x = 0 also "
        f"loses more as x grows (variance {truth[0]:.3f}). Apart from that they hardly differ (variance "
        f"{truth[1]:.4f}). The trials measure the one about as badly as the other (error variances {error[0]:.2f} and "
        f"{error[1]:.2f}), so that the predictions keep {kept[0]:.0%} of the first variance and {kept[1]:.0%} of the "
        "second. An oval that loses its width becomes a line, and points on a falling line have a correlation of -1. "
        "What is missing is what the trials leave unknown of each subject; together with the spread of the "
        "predictions it gives VarCorr again.",
        "So the correlation of the BLUPs tells as much about the trials as about the people. With the same people "
        f"and as many trials, but {other.title}, it would be {correlation(other.expected()):.2f}: too weak instead of "
        "too strong. Such trials never come near x = 0, and a higher intercept with a steeper fall looks there much "
        f"like no difference at all (error variances {error_other[0]:.2f} and {error_other[1]:.3f}), so that now the "
        f"oval loses length. With {many} times the trials it would be {correlation(s.expected(many)):.2f} in the one "
        f"case and {correlation(other.expected(many)):.2f} in the other. VarCorr aims at {CORRELATION} all the time.",
        "It does not hit each time. VarCorr's variances and covariance are right on average, or nearly so (a "
        f"correlation made of their means is {correlation(s.mean('VarCorr')):.2f}), but over the data sets its "
        f"correlation has a standard deviation of {varcorr.std():.2f}, and in {at_limit(s):.0%} of them it is -1, the "
        "limit: the width of the oval is too little for so few trials. The BLUPs' correlation varies less, "
        f"{blups.std():.2f}, and is no better for it. So report VarCorr's as strongly negative, without much weight "
        "on its digits, and use the BLUPs to predict single subjects.",
        f"There are two slopes as well. {within:.3f} is what one more unit of x does to one subject's log-odds; "
        f"{average:.3f} is what it does to the average of all subjects. The second is nearer to zero, since an "
        "average of many curves is flatter than the curves; the share of correct answers follows it. Both are "
        "right: the first speaks of a person, the second of a population.",
    ]


# ---------------------------------------------------------------- picture
def picture(settings: list[Setting]):
    """Above: D and its two parts. Below: both correlations over all data sets in both settings, and the curves."""
    figure, grid = plt.subplots(2, 3, figsize=(12.6, 6.9), layout="constrained", height_ratios=[1, 1.35])
    figure.get_layout_engine().set(hspace=0.08)
    asked = settings[0]
    ovals(grid[0], asked)
    for axis, s in zip(grid[1], settings, strict=False):
        correlations(axis, s)
    draw_curves(grid[1, 2], asked)
    for axis in grid.flat:
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure


def ovals(panels: np.ndarray, s: Setting) -> None:
    """95% ellipses of the three matrices, their axes, and the subjects of one data set."""
    modes, means = s.first.ranef()["subject"].to_numpy(), "ellipses: 95%, means over the data sets"
    for axis, kind, colour, points, title, shown in (
        (panels[0], "VarCorr", GREY, s.people, "VarCorr: how subjects differ", "dots: the subjects of one data set"),
        (panels[1], "unknown", UNKNOWN, None, "=   what the trials leave unknown of each", means),
        (panels[2], "modes", BLUPS, modes, "+   the spread of the BLUPs", "dots: the BLUPs of that data set"),
    ):
        covariance = s.mean(kind)
        if points is not None:
            axis.plot(*points.T, "o", ms=3, color=colour, alpha=0.45, mew=0)
        if kind != "VarCorr":
            axis.plot(*ellipse(s.mean("VarCorr")), color=GREY, lw=1, ls=(0, (4, 2)))
        axis.fill(*ellipse(covariance), color=colour, alpha=0.12, lw=0)
        axis.plot(*ellipse(covariance), color=colour, lw=1.8)
        values, vectors = np.linalg.eigh(covariance)
        for value, vector in zip(values, vectors.T, strict=True):
            axis.plot(*np.outer(vector, [-1, 1]) * RADIUS * np.sqrt(max(value, 0)), color=colour, lw=1)
        along = f"variance along {values[1]:.3f}, across {values[0]:.4f}"
        about = f"correlation {correlation(covariance):.2f}\n{along}"
        axis.text(0.02, 0.03, shown, transform=axis.transAxes, va="bottom", fontsize=9, color=colour)
        axis.text(0.99, 0.99, about, transform=axis.transAxes, ha="right", va="top", fontsize=9)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("intercept, difference from the mean", fontsize=9)
        axis.set_aspect("equal")
        axis.set_xlim(-1.45, 1.45)
        axis.set_ylim(-0.75, 0.75)
    panels[0].set_ylabel("slope, difference from the mean", fontsize=9)


def ellipse(covariance: np.ndarray) -> np.ndarray:
    """(2, 201) the points that hold 95% of a normal distribution."""
    values, vectors = np.linalg.eigh(covariance)
    t = np.linspace(0, 2 * np.pi, 201)
    return RADIUS * vectors * np.sqrt(np.maximum(values, 0)) @ np.array([np.cos(t), np.sin(t)])


def correlations(axis: plt.Axes, s: Setting) -> None:
    bins = np.linspace(-1, 0, 41)
    for kind, colour in (("BLUPs", BLUPS), ("VarCorr", GREY)):
        values = s.results[f"{kind} correlation"].dropna().clip(lower=-1)  # -1 but for rounding
        beyond = f", and {np.sum(values > 0)} above 0" if np.any(values > 0) else ""
        axis.hist(values, bins, color=colour, alpha=0.3)
        axis.hist(values, bins, color=colour, histtype="step", lw=1.8, label=f"{kind}{beyond}")
    axis.axvline(CORRELATION, color=TRUTH, lw=1.8, label="the truth")
    axis.axvline(correlation(s.expected()), color=BLUPS, lw=1.5, ls=(0, (4, 2)), label="BLUPs, expected if D is known")
    axis.set_title(f"{len(s.results)} data sets, {s.title}", fontsize=11)
    axis.set_xlabel("correlation of intercept and slope", fontsize=9)
    axis.set_ylabel("data sets", fontsize=9)
    axis.set_xlim(-1.04, 0.02)
    axis.legend(loc="upper right", framealpha=1, edgecolor="none", fontsize=9)


def draw_curves(axis: plt.Axes, s: Setting) -> None:
    x, pieces = np.linspace(s.low, s.high, 101), curves(s)
    axis.plot(pieces["x"], pieces.iloc[:, 1], "o", color=TRUTH, ms=5, label="average of all subjects, simulated")
    for kind, colour, name in (
        ("all", BLUPS, "marginal_coef: slope {:.3f}"),
        ("one subject", UNKNOWN, "fixef, a subject with b = 0: slope {:.3f}"),
    ):
        axis.plot(x, curve(s, kind, x), color=colour, lw=1.8, label=name.format(s.results[f"{kind}: x"].mean()))
    axis.set_title("Two slopes", fontsize=11)
    axis.set_xlabel("x", fontsize=9)
    axis.set_ylabel("probability of a correct answer", fontsize=9)
    axis.legend(frameon=False, fontsize=9)


if __name__ == "__main__":
    main()
