"""The fixed effects over a covariate: lines of the mean with bands of confidence, `effects`.

    η(x) = l(x)'β        l(x) the row of X at x, averaged over the levels of what the picture does not show
    band   l'β̂ ± q √(l'Vl)   at each x by itself, q of t with that row's degrees of freedom, carried back by the link

They are marginal means along x, `Fit.emmeans(x, at={x: ...})`, and so are their numbers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmm._axes import FONT, HEIGHT, SEVERAL, STYLES, WIDTH, caption, folded, plain, pyplot, scale_of
from jaxmm.fitted import check_fit
from jaxmm.links import Identity


def effects(
    fit: Any,
    x: str,
    by: str | None = None,
    *,
    at: Mapping[str, Any] | None = None,
    ax: Any = None,
    level: float = 0.95,
    scale: str = "response",
    points: int = 60,
    **options: Any,
) -> Any:
    """The mean over the covariate ``x``, a line and a band of confidence for each level of ``by``.

    Args:
        x: a column of numbers of the formula, drawn over its range in the data, or over ``at[x]``.
        by: a factor, or a covariate whose values ``at`` gives: a line each, seven at most.
        at: values of covariates, and levels of factors, in the place of their means, and of all levels.
        ax: the axes to draw into.
        level: of the bands, which hold at each x by itself.
        scale: "response", or "link".
        points: of a line.
        options: of ``Fit.emmeans``: ``ddf``, ``vcov``, ``weights``, ``integrate``.

    Returns:
        The axes.

    Raises:
        ValueError: an x that is no covariate of the formula.

    Example:
        plots.effects(fit, "Days", by="Treatment")
    """
    check_fit("effects", fit)
    plt = pyplot()
    at = dict(at or {})
    if x not in at:
        at[x] = np.linspace(*_range(fit, x), points)
    means = fit.emmeans([x] if by is None else [x, by], at=at, scale=scale, level=level, **options)
    frame = means.frame
    lines = [None] if by is None else list(dict.fromkeys(frame[by]))
    if len(lines) > len(SEVERAL):
        raise ValueError(f"by: {by!r} has {len(lines)} levels, more than can be told apart: choose some by at=")
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    for k, line in enumerate(lines):
        own = frame if by is None else frame[frame[by] == line]
        own = own.sort_values(x)
        style = {"color": SEVERAL[k], "ls": STYLES[k % len(STYLES)], "lw": 1.6}
        name = f"{100 * level:g}% band" if by is None else None
        ax.fill_between(own[x], own["lower"], own["upper"], color=SEVERAL[k], alpha=0.18, lw=0, label=name)
        ax.plot(own[x], own[means.what], label="mean" if by is None else _shown(line), **style)
    link, response = fit.family.link, fit.model.design.response
    mean = isinstance(link, Identity) or options.get("integrate", False)
    what = f"mean of {response}" if mean else f"{response}, typical level"  # at b = 0, which is no mean
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(folded(what if scale == "response" or mean else scale_of(fit)), fontsize=FONT)
    caption(ax, means.header[1:])
    ax.tick_params(labelsize=7)
    title = None if by is None else f"{by}, {100 * level:g}% bands"
    ax.legend(frameon=False, fontsize=7, title=title, title_fontsize=7)
    plain(ax)
    return ax


def _range(fit: Any, x: str) -> tuple[float, float]:
    spec = fit.model.design.spec
    if spec is None:
        raise ValueError("this model was made from arrays: effects() needs a formula")
    columns = spec.seen.columns
    numbers = [name for name, c in columns.items() if c.labels is None]
    if x not in numbers:
        hint = f"; fit.emmeans({x!r}).plot() draws the means of a factor" if x in columns else ""
        raise ValueError(f"x must be a covariate of the formula, {', '.join(map(repr, numbers)) or 'there is none'}, "
                         f"not {x!r}{hint}")  # fmt: skip
    return columns[x].low, columns[x].high


def _shown(level: Any) -> str:
    return level if isinstance(level, str) else f"{level:.4g}"
