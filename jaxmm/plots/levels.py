"""The levels of a grouping factor: `caterpillar`, their effects with intervals, of any fit."""

from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import BLUP, DATA, FONT, NAMED, POPULATION, WIDTH, folded, names_of, plain, pyplot, scale_of
from jaxmm.fitted import check_fit
from jaxmm.inference.wald import check_level, quantile
from jaxmm.tables import check_group


def caterpillar(
    fit: Any,
    group: str | None = None,
    effect: str | None = None,
    ax: Any = None,
    level: float = 0.95,
    *,
    order: str | None = None,
) -> Any:
    """The conditional modes of a factor's levels, sorted, with intervals mode ± z · conditional SD.

    Blue, with a filled dot: the interval is clear of zero; grey, with an open one: it holds zero.

    Args:
        group: the grouping factor; the first where None.
        effect: one effect; where None all of them, side by side.
        ax: the axes to draw into, for one effect.
        level: of the intervals.
        order: the effect by which the levels are sorted in every panel, so that a level is one line of the picture;
            or "levels", the factor's own order, from the top. Where None each panel is sorted by itself.

    Returns:
        The axes, an array of them for several effects.

    Example:
        plots.caterpillar(fit, order="Days")
    """
    check_fit("caterpillar", fit)
    plt = pyplot()
    check_level(level)
    ranef = fit.ranef()
    group = _group(ranef, group)
    modes, sds = ranef[group], ranef.cond_sd[group]
    effects = list(modes.columns) if effect is None else [_effect(group, modes, effect)]
    if ax is not None and len(effects) > 1:
        raise ValueError(f"{group} has the effects {', '.join(effects)}: name the one for this ax in effect=")
    together = None if order is None else _order(group, modes, order)
    if ax is None:
        height = max(2.2, 1.1 + 0.16 * len(modes)) if len(modes) <= NAMED else 5.5
        figure, grid = plt.subplots(
            1,
            len(effects),
            figsize=(max(WIDTH, 1.7 * len(effects)), height),
            squeeze=False,
            layout="constrained",
            sharey=together is not None,
        )
        axes = grid[0]
    else:
        figure, axes = ax.figure, np.array([ax])
    z = quantile(level)
    for axis, name in zip(axes, effects, strict=True):
        places = np.argsort(modes[name].to_numpy(), kind="stable") if together is None else together
        _caterpillar(axis, modes[name], sds[name], z, places)
        axis.set_title(f"{group}: {name}", fontsize=FONT)
    if together is not None:
        for axis in axes[1:]:
            axis.tick_params(left=False)
            axis.set_ylabel("")
    what = folded(f"{scale_of(fit)}: difference from the mean, {100 * level:g}% interval", 50)
    if ax is None:
        figure.supxlabel(what, fontsize=FONT)
        figure.legend(*_both_legends(axes), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    else:
        ax.set_xlabel(what, fontsize=8)
        ax.legend(frameon=False, fontsize=7, loc="best")
    return axes[0] if len(effects) == 1 else axes


def _effect(group: str, modes: pd.DataFrame, effect: str) -> str:
    if effect not in modes.columns:
        raise ValueError(f"{group} has no effect {effect!r}; it has {', '.join(map(repr, modes.columns))}")
    return effect


def _order(group: str, modes: pd.DataFrame, order: str) -> np.ndarray:
    """The places of the levels from the bottom up."""
    if order == "levels" and order not in modes.columns:
        return np.arange(len(modes))[::-1]
    if order not in modes.columns:
        shown = ", ".join(map(repr, modes.columns))
        raise ValueError(f"order must be one of the effects of {group}, {shown}, or 'levels', not {order!r}")
    return np.argsort(modes[order].to_numpy(), kind="stable")


def _both_legends(axes: Any) -> tuple[list, list]:
    """Handles and labels of all panels, each label once."""
    found = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _caterpillar(axis: Any, modes: pd.Series, sds: pd.Series, z: float, order: np.ndarray) -> None:
    centre, half = modes.to_numpy()[order], z * sds.to_numpy()[order]
    places = np.arange(len(order))
    clear = np.abs(centre) > half
    many = len(order) > NAMED
    for mask, colour, fill, label in (
        (~clear, DATA, "white", "interval holds zero"),
        (clear, BLUP, BLUP, "interval clear of zero"),
    ):
        if mask.any():
            ends = (centre - half)[mask], (centre + half)[mask]
            axis.hlines(places[mask], *ends, color=colour, lw=0.8 if many else 1.4)
            size, edge = (1.5, 0.5) if many else (3.5, 1.0)
            axis.plot(centre[mask], places[mask], "o", color=colour, mfc=fill, ms=size, mew=edge, label=label)
    axis.axvline(0.0, color=POPULATION, lw=0.8)
    axis.set_ylim(-1, len(order))
    if many:
        axis.set_yticks([])
        axis.set_ylabel(f"{len(order)} levels", fontsize=8)
    else:
        axis.set_yticks(places, names_of([modes.index[k] for k in order]), fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.locator_params(axis="x", nbins=5)
    plain(axis)


def _group(ranef: Any, group: str | None) -> str:
    return next(iter(ranef)) if group is None else check_group(group, ranef)
