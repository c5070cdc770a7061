"""Shrinkage in pictures: `shrinkage`, a panel per level, and `shrinkage_arrows`, the plane of intercept and slope.

For a factor with the effects (Intercept) and x, level j has three lines over x:

    population    β₀ + β₁ x                             the same for all
    its own       least squares on its rows alone       noisy where rows are few
    BLUP          (β₀ + b^₀ⱼ) + (β₁ + b^₁ⱼ) x             between the two

The response is shown net of what the model says of everything else: offset, the other columns of X (about
their means) and the other random effects. Under another link than the identity these would be no lines, and
such a fit is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm._axes import BLUP, DATA, NAMED, OWN, POPULATION, plain, pyplot
from jaxmm.fitted import check_fit
from jaxmm.inference.wald import check_level
from jaxmm.links import Identity
from jaxmm.tables import check_group

_INTERCEPT = "(Intercept)"


def shrinkage(
    fit: Any,
    group: str | None = None,
    *,
    levels: Sequence[Any] | None = None,
    max_levels: int = 20,
    axes: Any = None,
    width: float = 6.7,
) -> Any:
    """A panel per level: its data, its own least-squares line, its BLUP line, the population line.

    Args:
        fit: with random slopes.
        group: a grouping factor with an intercept and one slope; the first such where None.
        levels: the levels to show; where None all, or `max_levels` of them spread over the range of slopes.
        axes: an array of axes to draw into, one per level shown.
        width: of the figure, in inches: 6.7 for a page (17 cm), 3.15 for a column (8 cm), which has fewer panels side
            by side; its texts are of 7 and 8 points whatever the width.

    Returns:
        The figure.
    """
    check_fit("shrinkage", fit)
    plt = pyplot()
    lines = _lines(fit, group)
    chosen = _chosen(lines, levels, max_levels)
    if axes is None:
        columns = _columns(len(chosen), width)
        rows = math.ceil(len(chosen) / columns)
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(width, 1.0 + 1.1 * rows),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        panels = grid.ravel()
        for empty in panels[len(chosen) :]:
            empty.set_visible(False)
        for k in range(max(0, len(chosen) - columns), len(chosen)):
            panels[k].tick_params(labelbottom=True)
    else:
        panels = np.asarray(axes, dtype=object).ravel()
        if len(panels) < len(chosen):
            raise ValueError(f"{len(chosen)} levels to show and {len(panels)} axes: pass more, or levels=")
        figure = panels[0].figure
    span = np.array([lines.x.min(), lines.x.max()])
    for axis, j in zip(panels, chosen, strict=False):
        _panel(axis, lines, j, span)
    _window(panels[: len(chosen)], lines, chosen)
    handles = panels[0].get_legend_handles_labels()
    if axes is None:
        figure.supxlabel(lines.slope, fontsize=8)
        figure.supylabel(lines.response, fontsize=8)
        few = len(chosen) < len(lines.levels)
        title = f"{len(chosen)} of {len(lines.levels)} levels of {lines.group}" if few else None
        ncols = 4 if width > 5 else 2
        style = {"fontsize": 8, "title_fontsize": 8, "columnspacing": 1.2, "handlelength": 1.6}
        figure.legend(*handles, loc="outside upper center", ncols=ncols, frameon=False, title=title, **style)
    return figure


def _columns(panels: int, width: float) -> int:
    """As many as have an inch of ``width`` each, or up to a third fewer where that leaves fewer places empty."""
    if not width >= 2.0:
        raise ValueError(f"width must be inches, 2 or more, not {width!r}")
    most = int(width - 0.5)
    return panels if panels <= most else min(range(most, -(-2 * most // 3) - 1, -1), key=lambda c: -panels % c)


def _panel(axis: Any, lines: "_Lines", j: int, span: np.ndarray) -> None:
    own = lines.codes == j
    axis.plot(lines.x[own], lines.y[own], "o", color=DATA, ms=2.5, alpha=0.8, label="data")
    for (a, b), colour, style, label in (
        (lines.population, POPULATION, (0, (4, 2)), "population"),
        (lines.own[j], OWN, "-", "its own least squares"),
        (lines.blup[j], BLUP, "-", "BLUP"),
    ):
        axis.plot(span, a + b * span, color=colour, ls=style, lw=1.6 if label == "BLUP" else 1.0, label=label)
    axis.set_title(str(lines.levels[j]), fontsize=8, pad=2)
    axis.tick_params(labelsize=7)
    plain(axis)


def _window(panels: Any, lines: "_Lines", chosen: np.ndarray) -> None:
    """The window of the data: a wild line of a level with few rows does not squeeze the rest."""
    y = lines.y[np.isin(lines.codes, chosen)]
    margin = 0.08 * (np.ptp(y) or 1.0)
    for axis in panels:
        axis.set_ylim(y.min() - margin, y.max() + margin)


def shrinkage_arrows(fit: Any, group: str | None = None, ax: Any = None, level: float = 0.95) -> Any:
    """Each level's own estimate → its BLUP in the plane of intercept and slope.

    Two ellipses hold the share `level` of a normal distribution: the covariance of the population (VarCorr's
    D) and that of the BLUPs, which is smaller.

    Args:
        fit: with random slopes.
        group: a grouping factor with an intercept and one slope; the first such where None.
        ax: the axes to draw into.
        level: of the ellipses.

    Returns:
        The axes.
    """
    plt = pyplot()
    check_level(level)
    check_fit("shrinkage_arrows", fit)
    lines = _lines(fit, group)
    if ax is None:
        _, ax = plt.subplots(figsize=(3.6, 3.9), layout="constrained")
    D = fit.varcorr().cov[lines.group].to_numpy()
    modes = lines.blup - lines.blup.mean(axis=0)
    radius = math.sqrt(-2.0 * math.log(1.0 - level))
    population = _ellipse(lines.population, D, radius)
    spread = _ellipse(lines.blup.mean(axis=0), modes.T @ modes / max(1, len(modes) - 1), radius)
    share = f"{100 * level:g}%"
    ax.fill(*population.T, color=POPULATION, alpha=0.06, lw=0)
    ax.plot(*population.T, color=POPULATION, lw=1.2, label=f"{share} of the population (VarCorr)")
    ax.plot(*spread.T, color=BLUP, lw=1.2, ls=(0, (4, 2)), label=f"{share} of the spread of the BLUPs")
    known = np.asarray(np.isfinite(lines.own[:, 1]))
    few = len(lines.levels) <= NAMED
    size = 3.2 if few else 1.8
    _arrows(ax, lines.own[known], lines.blup[known], heads=few)
    ax.plot(*lines.own[known].T, "o", color=OWN, ms=size, mfc="none", label="own least squares")
    ax.plot(*lines.blup.T, "o", color=BLUP, ms=size, label="BLUP")
    ax.plot(*lines.population, "P", color=POPULATION, ms=7, mec="white", label="population mean")
    _frame_arrows(ax, lines, known, np.vstack([population, spread]))
    ax.set_xlabel(f"intercept: {lines.response}, at {lines.slope} = 0", fontsize=8)
    ax.set_ylabel(f"slope of {lines.slope}", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.locator_params(nbins=6)
    ax.set_title(f"{lines.group}: from its own estimate to its BLUP", fontsize=9)
    ax.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, columnspacing=1.0)
    plain(ax)
    return ax


def _arrows(ax: Any, starts: np.ndarray, ends: np.ndarray, heads: bool) -> None:
    if not heads:  # one line in pieces: many arrows would be slow to draw and hide each other
        pieces = np.stack([starts, ends, np.full_like(ends, np.nan)], axis=1).reshape(-1, 2)
        ax.plot(*pieces.T, color=DATA, lw=0.6, alpha=0.4)
        return
    style = {"arrowstyle": "-|>", "mutation_scale": 5, "color": DATA, "lw": 0.8, "alpha": 0.8}
    style |= {"shrinkA": 2, "shrinkB": 2, "clip_on": True}
    for start, end in zip(starts, ends, strict=True):
        ax.annotate("", xy=end, xytext=start, annotation_clip=False, arrowprops=style)


def _frame_arrows(ax: Any, lines: "_Lines", known: np.ndarray, ellipses: np.ndarray) -> None:
    """Limits that hold the ellipses and the BLUPs, and own estimates up to twice that range."""
    inner = np.vstack([ellipses, lines.blup])
    low, high = inner.min(axis=0), inner.max(axis=0)
    reach = np.where(high > low, high - low, 1.0)
    near = np.vstack([inner, np.clip(lines.own[known], low - reach / 2, high + reach / 2)])
    low, high = near.min(axis=0) - 0.05 * reach, near.max(axis=0) + 0.05 * reach
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])


@dataclass(frozen=True, eq=False)
class _Lines:
    """Per level j the intercept and slope `own` (J, 2), NaN without two different x, and `blup` (J, 2)."""

    group: str
    slope: str
    response: str
    levels: np.ndarray
    codes: np.ndarray
    x: np.ndarray
    y: np.ndarray
    population: np.ndarray
    own: np.ndarray
    blup: np.ndarray


def _lines(fit: Any, group: str | None) -> _Lines:
    if not isinstance(fit.family.link, Identity):
        raise ValueError(
            f"these lines are straight on the scale of the response under the identity link only, and the fit has "
            f"{fit.family.name} ({fit.family.link.name}): caterpillar(fit) shows the effects of any fit"
        )
    design = fit.model.design
    ranef = fit.ranef()
    group, slope = _intercept_and_slope(ranef, group)
    f = next(k for k, factor in enumerate(design.factors) if factor.name == group)
    codes, levels = np.asarray(design.factors[f].codes), design.factors[f].levels
    terms = [t for t in design.terms if t.factor == f]
    Z = np.hstack([t.Z for t in terms])
    x = Z[:, [e for t in terms for e in t.effects].index(slope)]
    modes = ranef[group][[_INTERCEPT, slope]].to_numpy()
    y, population, adjusted = _net_response(fit, f, slope)
    response = f"{design.response}{', adjusted' if adjusted else ''}"
    own = _own_lines(x, y, codes, len(levels), design.weights)
    return _Lines(group, slope, response, levels, codes, x, y, population, own, population + modes)


def _net_response(fit: Any, f: int, slope: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """The response less everything but the factor's own effects and its two columns of X.

    Returns also the population's intercept and slope, and whether anything was taken off.
    """
    design = fit.model.design
    beta = np.asarray(fit.fixef, dtype=float)
    here = [list(design.columns).index(c) if c in design.columns else None for c in (_INTERCEPT, slope)]
    others = [k for k in range(len(beta)) if k not in here]
    population = np.array([0.0 if k is None else beta[k] for k in here])
    other_part = design.X[:, others] @ beta[others]
    centre = float(other_part.mean()) if others else 0.0
    taken = other_part - centre
    adjusted = bool(others) or design.offset is not None
    if design.offset is not None:
        taken = taken + design.offset
    ranef = fit.ranef()
    for k, factor in enumerate(design.factors):
        if k == f:
            continue
        Z = np.hstack([t.Z for t in design.terms if t.factor == k])
        taken = taken + np.sum(Z * ranef[factor.name].to_numpy()[factor.codes], axis=1)
        adjusted = True
    return design.y - taken, population + np.array([centre, 0.0]), adjusted


def _own_lines(x: np.ndarray, y: np.ndarray, codes: np.ndarray, J: int, weights: np.ndarray | None) -> np.ndarray:
    """(J, 2) weighted least squares of y on x within each level."""
    w = np.ones_like(y) if weights is None else np.asarray(weights)

    def total(v: np.ndarray) -> np.ndarray:
        return np.bincount(codes, weights=w * v, minlength=J)

    weight = total(np.ones_like(y))
    x_mean, y_mean = total(x) / weight, total(y) / weight
    dx = x - x_mean[codes]
    sxx, sxy = total(dx * dx), total(dx * (y - y_mean[codes]))
    known = sxx > 1e-12 * total(x * x)
    slope = np.where(known, sxy / np.where(known, sxx, 1.0), np.nan)
    return np.column_stack([y_mean - slope * x_mean, slope])


def _intercept_and_slope(ranef: Any, group: str | None) -> tuple[str, str]:
    names = list(ranef) if group is None else [check_group(group, ranef)]
    for name in names:
        effects = list(ranef[name].columns)
        if len(effects) == 2 and _INTERCEPT in effects:
            return name, next(e for e in effects if e != _INTERCEPT)
    found = "; ".join(f"{name} has {', '.join(ranef[name].columns)}" for name in names)
    raise ValueError(
        f"these lines need a factor with an intercept and one slope, as (x | g): {found}; "
        "caterpillar(fit) shows any factor"
    )


def _chosen(lines: _Lines, levels: Sequence[Any] | None, max_levels: int) -> np.ndarray:
    if levels is None:
        J = len(lines.levels)
        if max_levels >= J:
            return np.arange(J)
        by_slope = np.argsort(lines.blup[:, 1], kind="stable")
        return by_slope[np.unique(np.linspace(0, J - 1, max(1, max_levels)).round().astype(int))]
    places = {str(level): j for j, level in enumerate(lines.levels)}
    unknown = [level for level in levels if str(level) not in places]
    if unknown:
        raise ValueError(f"levels: {lines.group} has no level {unknown[0]!r}")
    return np.array([places[str(level)] for level in levels])


def _ellipse(centre: np.ndarray, cov: np.ndarray, radius: float) -> np.ndarray:
    """(101, 2) the points centre + radius · cov^½ (cos t, sin t); a segment where cov is singular."""
    t = np.linspace(0.0, 2.0 * np.pi, 101)
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return centre + radius * np.column_stack([np.cos(t), np.sin(t)]) @ root.T
