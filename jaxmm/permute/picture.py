"""A permutation test -> the distribution of its largest score, and the scores observed beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm._axes import BLUP, DATA, FONT, OWN, POPULATION, axes_for, labelled
from jaxmm.inference.wald import check_level

WORDS = {"max": "largest |t|", "cluster": "largest mass of a cluster", "tfce": "largest enhanced statistic"}
BINS = 30


def plot(found: Any, axes: Any, level: float) -> Any:
    """See ``PermutationResult.plot``.

    Raises:
        ImportError: without matplotlib.
        ValueError: several axes, or a level that is none.
    """
    check_level(level)
    (ax,) = axes_for(axes, 1)
    null = found.null[np.isfinite(found.null)]
    ax.hist(null, bins=min(BINS, max(5, len(null) // 5)), color=DATA, alpha=0.6, label="permutations")
    bar = found.critical(level)
    if np.isfinite(bar):
        ax.axvline(bar, color=POPULATION, lw=1, ls="--", label=f"p_fwe = {level:g}")
    scores = np.unique(found.tally.scores[found.tally.scores > 0])
    beyond = scores >= bar
    for some, colour, word in ((~beyond, BLUP, "observed"), (beyond, OWN, "observed, beyond")):
        if some.any():
            low = np.full(int(some.sum()), -0.03)
            ax.plot(scores[some], low, "|", color=colour, ms=7, label=word, transform=ax.get_xaxis_transform())
            ax.lines[-1].set_clip_on(False)
    labelled(ax, "", WORDS[found.statistic.name], "permutations")
    ax.legend(frameon=False, fontsize=FONT)
    return ax
