"""Pictures of a fit's residuals and modes: `residuals`, `qq`, `qq_ranef`.

A Q-Q plot has the numbers in order against the normal ones expected (``normality.scores``).  Its band holds all of n
normal numbers together in 95 % of samples: Φ(x_(i)) is Beta(i, n + 1 - i), and the ends are its quantiles at γ/2 and
1 - γ/2, with such γ that in 5 % of samples the smallest of the n pointwise levels is below it (Aldor-Noiman, Brown,
Buja, Rolke & Stine 2013, Am. Stat. 67, 249-260).  Fitted numbers stay inside more often than that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv, ndtri

from jaxmm._axes import BLUP, DATA, FONT, OWN, POPULATION, axes_for, labelled, names_of, size_of
from jaxmm.diagnose import standardised
from jaxmm.diagnose.normality import scores
from jaxmm.fitted import check_fit
from jaxmm.tables import check_group

# n -> γ, from up to 40,000 samples of uniform numbers; in between by logarithms
GAMMA = {5: 0.0124, 10: 0.00704, 20: 0.0048, 50: 0.00296, 100: 0.00223, 200: 0.00174, 500: 0.00126, 1000: 0.00108,
         2000: 0.00091, 5000: 0.0007, 10000: 0.00057}  # fmt: skip
NAMED = 3  # of the farthest points
WINDOW = 0.6  # of the rows: what a point of the smooth line is made of
KNOTS = 25  # points of it


def residuals(fit: Any, ax: Any = None) -> Any:
    """Residuals against fitted values, with a smooth line of their mean and of their root mean square.

    Standardised, √w (y - ŷ)/σ, in a linear model, where they should lie in a band of one width; else Pearson's. The
    farthest rows are named. With few rows a level the mean rises a little in any model, since modes are drawn to zero;
    for 0/1 responses and rare counts ``simulated_residuals`` shows more.

    Args:
        fit: of which the residuals are.
        ax: the axes to draw into.

    Returns:
        The axes.
    """
    check_fit("residuals", fit)
    (ax,) = axes_for(ax, 1)
    linear = fit.model.likelihood.precisions
    kept = fit.model.design.kept
    r = standardised.rows(fit) if linear else fit.residuals("pearson")[kept]
    x, y = fit.fitted().to_numpy()[kept], r.to_numpy()
    ax.axhline(0.0, color=POPULATION, lw=0.8)
    ax.plot(x, y, "o", color=DATA, ms=size_of(len(x)), alpha=0.6, mew=0)
    at, mean, spread = _smooth(x, y)
    ax.plot(at, mean, color=BLUP, lw=1.6, label="mean")
    ax.plot(at, spread, color=OWN, lw=1.4, ls="--", label="± root mean square")
    ax.plot(at, -spread, color=OWN, lw=1.4, ls="--")
    _name(ax, pd.Series(y, r.index), x, y)
    what = "standardised residual (σ)" if linear else "Pearson residual"
    labelled(ax, "Residuals", f"fitted {fit.model.design.response}", what)
    ax.set_title("Residuals", fontsize=FONT + 1, pad=16)
    ax.legend(frameon=False, fontsize=FONT, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)
    return ax


def qq(fit: Any, ax: Any = None) -> Any:
    """Normal Q-Q plot of a linear model's standardised residuals, in σ, with a band; points beyond it are marked.

    Args:
        fit: of which the residuals are.
        ax: the axes to draw into.

    Returns:
        The axes.

    Raises:
        ValueError: a generalised model, whose residuals are not normal.
    """
    check_fit("qq", fit)
    if not fit.model.likelihood.precisions:
        raise ValueError(
            f"residuals of a {fit.family.name} model are not normal: fit.simulated_residuals(key=...).plot() has a Q-Q "
            "plot that is right for any family"
        )
    (ax,) = axes_for(ax, 1)
    _quantiles(ax, standardised.rows(fit))
    labelled(ax, "Q-Q of residuals", "normal quantile", "standardised residual (σ)")
    return ax


def plot_residuals(fit: Any, axes: Any = None) -> np.ndarray:
    """See ``Fit.plot_residuals``."""
    panels = 2 if fit.model.likelihood.precisions else 1
    axes = axes_for(axes, panels, panels)
    residuals(fit, axes[0])
    if panels > 1:
        qq(fit, axes[1])
    return axes


def qq_ranef(fit: Any, group: str | None = None, axes: Any = None) -> Any:
    """Normal Q-Q plots of a factor's conditional modes, each over its own standard deviation; a panel for each effect.

    Args:
        fit: of which the modes are.
        group: the grouping factor; the first where None.
        axes: to draw into, one for each effect.

    Returns:
        The axes, an array.

    Raises:
        ValueError: an unknown group.
    """
    check_fit("qq_ranef", fit)
    names = [f.name for f in fit.model.design.factors]
    own = names[0] if group is None else check_group(group, dict.fromkeys(names))
    z = standardised.modes(fit, own).z
    axes = axes_for(axes, z.shape[1], min(z.shape[1], 3), f", one for each effect of {own}")
    for ax, effect in zip(axes, z.columns, strict=True):
        known: Any = z[effect].dropna()
        if len(known) > 1:
            _quantiles(ax, known)
        else:
            ax.text(0.5, 0.5, "no variance", ha="center", va="center", transform=ax.transAxes, fontsize=FONT)
        labelled(ax, f"{own}: {effect}", "normal quantile", "mode / its SD")
    return axes


def _quantiles(ax: Any, values: pd.Series) -> None:
    n = len(values)
    ordered = values.sort_values()
    at, y = scores(n), ordered.to_numpy()
    low, high = band(n)
    ax.fill_between(at, low, high, color=BLUP, alpha=0.15, lw=0, label="95% band")
    ends = np.array([at[0], at[-1]])
    ax.plot(ends, ends, color=POPULATION, lw=0.8)
    out = (y < low) | (y > high)
    ax.plot(at[~out], y[~out], "o", color=BLUP, ms=size_of(n))
    if out.any():
        ax.plot(at[out], y[out], "D", color=OWN, ms=size_of(n) + 0.8, label="beyond it")
    _name(ax, ordered, at, y)
    ax.legend(frameon=False, fontsize=FONT, loc="upper left")


def band(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the lower and upper ends for n standard normal numbers in order."""
    gamma = np.exp(np.interp(np.log(n), np.log(list(GAMMA)), np.log(list(GAMMA.values()))))
    i = np.arange(1, n + 1)
    return tuple(ndtri(betaincinv(i, n + 1 - i, p)) for p in (gamma / 2, 1 - gamma / 2))


def _name(ax: Any, values: pd.Series, x: np.ndarray, y: np.ndarray) -> None:
    """The labels of the farthest points, above or below them, away from zero."""
    wide, high = (float(np.ptp(v)) or 1.0 for v in (x, y))
    names, above = names_of(list(values.index)), []
    for k in np.argsort(-np.abs(y))[:NAMED]:
        up = 1 if y[k] > 0 else -1
        side = "center" if len(names[k]) < 6 else "right" if x[k] > np.mean(x) else "left"  # towards the middle
        style: dict[str, Any] = {"xytext": (0, 4 * up), "ha": side, "va": "bottom" if up > 0 else "top"}
        if any(abs(x[k] - x[o]) < 0.12 * wide and abs(y[k] - y[o]) < 0.12 * high for o in above):
            right = side == "right" or (side == "center" and x[k] < np.mean(x[above]))  # beside it, clear of the other
            style = {"xytext": (-4 if right else 4, 0), "ha": "right" if right else "left", "va": "center"}
        above.append(int(k))
        ax.annotate(names[k], (x[k], y[k]), textcoords="offset points", fontsize=FONT - 1,
                    color=POPULATION, **style)  # fmt: skip
    ax.margins(y=0.1)


def _smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At points (k,) of x the local linear mean of y and of y², by tricube weights over the nearest share WINDOW
    (Cleveland 1979, J. Am. Stat. Assoc. 74, 829-836); of the latter the root."""
    at = np.unique(np.quantile(x, np.linspace(0.02, 0.98, KNOTS)))
    mean, square = np.empty((2, len(at)))
    count = max(5, int(np.ceil(WINDOW * len(x))))
    for k, centre in enumerate(at):
        far = np.abs(x - centre)
        reach = max(np.sort(far)[min(count, len(x)) - 1], 1e-12 * (np.ptp(x) + 1.0))
        w = np.clip(1 - (far / reach) ** 3, 0, 1) ** 3 + 1e-12
        own = x - np.average(x, weights=w)
        sxx = np.sum(w * own**2)
        for out, v in ((mean, y), (square, y**2)):
            level = np.average(v, weights=w)
            slope = np.sum(w * own * (v - level)) / sxx if sxx > 0 else 0.0
            out[k] = level + slope * (centre - (x - own)[0])
    return at, mean, np.sqrt(np.maximum(square, 0.0))
