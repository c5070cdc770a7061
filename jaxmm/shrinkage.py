"""VarCorr or the covariance of the BLUPs? What each estimates, and how they add up.

Let b_j ~ N(0, D), j = 1..J, be the effects of the levels of one grouping factor, r = y − Xβ, V = Var(y), Z_j
the columns of level j. The mode of b_j and its variance given the data are

    b^_j = D Z_j' V⁻¹ r,        V_j = D − D Z_j' V⁻¹ Z_j D,

so that, with G = Σ_j Z_j' (V⁻¹ − V⁻¹ r r' V⁻¹) Z_j the gradient of −2 log-likelihood by D,

    (1/J) Σ_j V_j  +  (1/J) Σ_j b^_j b^_j'  =  D − D G D / J.

At a stationary point D G D = 0 in the elements of D that are free, and there

    D  =  mean conditional variance  +  mean square of the modes,

exactly, whatever other terms the model has: an unstructured term in all elements, independent terms of one
factor (`||`) in their own blocks; a structure whose variances depend on each other (cs, ar1) only as far as θ moves D;
in a direction in which D is zero both sides are zero. By REML the same
holds with P = V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹ for V⁻¹: then D − D Z_j' P Z_j D is the prediction variance
Var(b^_j − b_j), which includes that of β^. In a generalised model it is approximate.

So the spread of the modes is *not* an estimate of D: it is smaller by the mean conditional variance, the more
so the less data a level has. With one random intercept and m rows per level the share kept is D/(D + σ²/m).
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.frames import as_backend
from jaxmm.tables import correlation, pairs, sample_cov

_HEADING = "VarCorr and the random effects: two different variances"
_ESTIMATES = "What each number estimates"


@dataclass(frozen=True, eq=False)
class GroupShrinkage:
    """One grouping factor with J levels and q effects.

    levels (J,) labels; D (q, q) the estimated covariance; cond_cov (J, q, q) the variance of b_j given y, by
    ML given β^, by REML the prediction variance Var(b^_j − b_j); modes (J, q); n_obs (J,) rows per level.

    Example:
        >>> fit.shrinkage().groups[0].mean_cond_cov().shape
        (2, 2)
    """

    group: str
    effects: tuple[str, ...]
    levels: Sequence[object] | np.ndarray | pd.Index
    D: np.ndarray
    cond_cov: np.ndarray
    modes: np.ndarray
    n_obs: np.ndarray

    def mean_cond_cov(self) -> np.ndarray:
        """(q, q) the mean over levels of the covariance of b_j given the data."""
        return np.mean(self.cond_cov, axis=0)

    def cov_modes(self) -> np.ndarray:
        """(1/J) Σ b^ b^', about zero: the one in the identity."""
        return self.modes.T @ self.modes / len(self.modes)

    def share_kept(self) -> np.ndarray:
        """(q,) mean square of the modes over D; zero where D is."""
        return _ratio(np.diag(self.cov_modes()), np.diag(self.D))

    def reliability(self) -> np.ndarray:
        """(J, q) 1 − conditional variance / D: 1 is no shrinkage; zero where D is."""
        variance = np.diag(self.D)
        return _ratio(variance - np.diagonal(self.cond_cov, axis1=1, axis2=2), variance)

    def is_zero(self) -> np.ndarray:
        """(q,) whether a variance is zero, or so small that no level's data say anything of its effect."""
        return self.reliability().max(axis=0) < 1e-8


class Shrinkage:
    """D, mean conditional covariance and covariance of the modes, by grouping factor.

    Every property is a dictionary by factor: of frames (effects × effects), of a series by effect (`factor`),
    or of a frame levels × effects with the column n_obs (`by_level`).

    Example:
        >>> fit.shrinkage().mean_cond_cov["Subject"].shape
        (2, 2)
    """

    def __init__(
        self, groups: Sequence[GroupShrinkage], reml: bool, exact: bool = True, restricted: Sequence[str] = ()
    ):
        self.groups = tuple(groups)
        self.reml, self.exact, self.restricted = bool(reml), bool(exact), tuple(restricted)

    @property
    def D(self) -> dict[str, pd.DataFrame]:
        """The estimate of the population covariance: VarCorr's."""
        return {g.group: _square(g.D, g) for g in self.groups}

    @property
    def mean_cond_cov(self) -> dict[str, pd.DataFrame]:
        """The mean over levels of the covariance of b_j given the data."""
        return {g.group: _square(g.mean_cond_cov(), g) for g in self.groups}

    @property
    def cov_modes(self) -> dict[str, pd.DataFrame]:
        """(1/J) Σ b^ b^', about zero."""
        return {g.group: _square(g.cov_modes(), g) for g in self.groups}

    @property
    def sample_cov_modes(self) -> dict[str, pd.DataFrame]:
        """The sample covariance of the modes, about their mean and with J − 1, as `ranef().cov`."""
        return {g.group: _square(sample_cov(g.modes), g) for g in self.groups}

    @property
    def sum(self) -> dict[str, pd.DataFrame]:
        """mean_cond_cov + cov_modes: equals D."""
        return {g.group: _square(g.mean_cond_cov() + g.cov_modes(), g) for g in self.groups}

    @property
    def gap(self) -> dict[str, pd.DataFrame]:
        """sum − D: zero at a stationary point, in the elements of D that the model estimates."""
        return {g.group: _square(g.mean_cond_cov() + g.cov_modes() - g.D, g) for g in self.groups}

    @property
    def corr_D(self) -> dict[str, pd.DataFrame]:
        """The estimate of the population correlations; NaN where a variance is zero."""
        return {g.group: _square(correlation(g.D), g) for g in self.groups}

    @property
    def corr_modes(self) -> dict[str, pd.DataFrame]:
        """The sample correlations of the modes; NaN where they do not vary."""
        return {g.group: _square(correlation(sample_cov(g.modes)), g) for g in self.groups}

    @property
    def factor(self) -> dict[str, pd.Series]:
        """Per effect the share of the variance that the modes keep: their mean square over D."""
        return {g.group: pd.Series(g.share_kept(), index=list(g.effects), name="share_kept") for g in self.groups}

    @property
    def by_level(self) -> dict[str, pd.DataFrame]:
        """Per level and effect 1 − conditional variance / D (1: no shrinkage, 0: all), and n_obs."""
        frames = {}
        for g in self.groups:
            index = pd.Index(np.asarray(g.levels), name=g.group)
            frame = pd.DataFrame(g.reliability(), index=index, columns=list(g.effects))
            frame["n_obs"] = np.asarray(g.n_obs)
            frames[g.group] = frame
        return frames

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """One row per element of D: its decomposition and the correlations.

        Columns: group, effect1, effect2 (missing in a variance's row), D, mean_cond_cov, cov_modes, sum,
        sample_cov_modes, share_kept (in a variance's row), corr_D, corr_modes (in a covariance's row).
        ``backend``: "pandas" or "polars".
        """
        rows = []
        for g in self.groups:
            q = len(g.effects)
            mean, modes, sample = g.mean_cond_cov(), g.cov_modes(), sample_cov(g.modes)
            kept, rho, rho_modes = g.share_kept(), correlation(g.D), correlation(sample)
            for k, l in [(k, k) for k in range(q)] + pairs(q):
                variance = k == l
                rows.append(
                    {
                        "group": g.group,
                        "effect1": g.effects[k],
                        "effect2": None if variance else g.effects[l],
                        "D": g.D[l, k],
                        "mean_cond_cov": mean[l, k],
                        "cov_modes": modes[l, k],
                        "sum": mean[l, k] + modes[l, k],
                        "sample_cov_modes": sample[l, k],
                        "share_kept": kept[k] if variance else np.nan,
                        "corr_D": np.nan if variance else rho[l, k],
                        "corr_modes": np.nan if variance else rho_modes[l, k],
                    }
                )
        return as_backend(pd.DataFrame(rows), backend)

    def __str__(self) -> str:
        parts = [_HEADING]
        for g in self.groups:
            cells = _group_cells(g)
            table = _text.align(cells, [False, *[True] * (len(cells[0]) - 1)], gap="  ")
            parts.append("\n".join([_group_title(g), *table, *_group_remarks(g)]))
        return "\n\n".join([*parts, "\n".join(_explanation(self.reml, self.exact, self.restricted))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [_text.paragraph(_HEADING)]
        for g in self.groups:
            header, *rows = _group_cells(g)
            parts.append(_text.paragraph(_group_title(g)) + _text.html_table(header, rows))
            parts += [_text.paragraph(remark) for remark in _group_remarks(g)]
        statements = [_ESTIMATES, *_statements(self.reml, self.exact, self.restricted)]
        return "".join([*parts, *map(_text.paragraph, statements)])


def shrinkage(fit: Any) -> Shrinkage:
    """The parts above of a fit, by grouping factor in the order of its theta."""
    factors, groups = fit.model.design.factors, []
    places = {factor.name: f for f, factor in enumerate(factors)}
    for block in fit.varcorr().blocks:
        f = places[block.group]
        groups.append(
            GroupShrinkage(
                group=block.group,
                effects=block.effects,
                levels=factors[f].levels,
                D=block.cov,
                cond_cov=fit.effects.prediction[f],
                modes=fit.modes[f],
                n_obs=np.bincount(factors[f].codes, minlength=len(factors[f].levels)),
            )
        )
    terms = (t.covariance for t in fit.model.design.terms)
    restricted = dict.fromkeys(c.name for c in terms if c.restricted)
    return Shrinkage(groups, fit.reml, fit.model.likelihood.exact, tuple(restricted))


def _group_title(g: GroupShrinkage) -> str:
    low, high = int(np.min(g.n_obs)), int(np.max(g.n_obs))
    each = f"{low}" if low == high else f"{low} to {high}"
    return f"{g.group}: {len(g.modes)} levels, {each} rows each"


def _group_cells(g: GroupShrinkage) -> list[list[str]]:
    """Header and rows of one factor's table: a column per effect."""
    D, mean, modes = np.diag(g.D), np.diag(g.mean_cond_cov()), np.diag(g.cov_modes())
    sample = sample_cov(g.modes)
    variances = [
        ("variance in the population (VarCorr)", D),
        ("  mean conditional variance", mean),
        ("  + mean square of the modes", modes),
        ("  = their sum", mean + modes),
        ("sample variance of the modes", np.diag(sample)),
    ]
    numbers = np.array([np.where(g.is_zero(), 0.0, v) for _, v in variances])
    columns = [_text.number_column(numbers[:, k], 5) for k in range(len(g.effects))]
    rows = [[label, *(c[i] for c in columns)] for i, (label, _) in enumerate(variances)]
    rows.append(["share of the variance kept", *(f"{100 * s:.1f}%" for s in g.share_kept())])
    reliability = g.reliability()
    rows.append(["  by level, least", *(f"{100 * s:.1f}%" for s in reliability.min(axis=0))])
    rows.append(["  by level, most", *(f"{100 * s:.1f}%" for s in reliability.max(axis=0))])
    rho, rho_modes = correlation(g.D), correlation(sample)
    for l in range(1, len(g.effects)):
        for name, corr in (("VarCorr", rho), ("modes", rho_modes)):
            row = [_text.number_text(corr[m, l], ".3f") if m < l else "" for m in range(len(g.effects))]
            rows.append([f"correlation with {g.effects[l]}, {name}", *row])
    return [["", *g.effects], *rows]


def _group_remarks(g: GroupShrinkage) -> list[str]:
    zero = [e for e, is_zero in zip(g.effects, g.is_zero(), strict=True) if is_zero]
    if not zero:
        return []
    return [f"The variance of {', '.join(zero)} is estimated as zero: every level is shrunk onto the mean."]


def _statements(reml: bool, exact: bool, restricted: Sequence[str]) -> list[str]:
    uncertainty = "including the uncertainty of the fixed effects" if reml else "at the estimated fixed effects"
    how = (
        f"exactly so at {'REML' if reml else 'ML'} estimates"
        if exact
        else ("nearly so in a generalised model, where the conditional distribution is not quite normal")
    )
    if restricted:
        how += (
            f"; not effect by effect where the structure ties variances to each other ({', '.join(restricted)}), and "
            "their shares kept may pass 100% there"
        )
    return [
        "VarCorr estimates the covariance of the effects in the population that the levels come from, before "
        "any of their data are seen. Use it to say how much levels differ, for intraclass correlations, R² "
        "and power, and for a new level.",
        "The modes (ranef, BLUPs) predict the levels at hand. Each is drawn towards the mean, the more the "
        "fewer rows its level has, so that their spread is smaller than that of the effects themselves. Use "
        "them to predict or compare these levels; do not report their variance or correlation as the "
        "population's.",
        f"The conditional variance is what the data leave unknown of one level's effect, {uncertainty}.",
        "The first is the sum of the other two, on average over the levels: VarCorr = mean conditional "
        f"variance + mean square of the modes, {how}.",
        "Share kept: 100% is no shrinkage, 0% all the way to the mean; its complement is the share of the "
        "variance that the data leave unknown.",
    ]


def _explanation(reml: bool, exact: bool, restricted: Sequence[str]) -> list[str]:
    lines = [_ESTIMATES]
    for statement in _statements(reml, exact, restricted):
        lines += textwrap.wrap(statement, 80, initial_indent="- ", subsequent_indent="  ")
    return lines


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Zero where the denominator is: the limit of the shares as the variance goes to zero."""
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), 0.0)


def _square(values: np.ndarray, g: GroupShrinkage) -> pd.DataFrame:
    return pd.DataFrame(np.asarray(values), index=list(g.effects), columns=list(g.effects))
