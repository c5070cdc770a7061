"""Batches without a search: of random numbers, or of fits made one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import jaxmm as mm
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import Names, names_of

NAMES = Names(
    fixef=("(Intercept)", "Days", "β|x, y"),
    theta=4,
    sd=(("Subject", "(Intercept)"), ("Subject", "Days"), ("item", "(Intercept)")),
    corr=(("Subject", "(Intercept)", "Days"),),
    has_scale=True,
    has_phi=True,
    reml=True,
)


def random_batch(first: int, stop: int, names: Names = NAMES) -> FitBatch:
    """Replicates first .. stop - 1; each depends on its number alone, and some have failed."""
    n, widths = stop - first, {name: len(labels) for name, labels in names.columns().items()}
    total = sum(widths.values()) + 3
    numbers = np.array([np.random.default_rng(k).normal(size=total) for k in range(first, stop)]).reshape(n, total)
    status = np.array([np.random.default_rng([k, 1]).choice([0, 0, 0, 0, 1, 2]) for k in range(first, stop)])
    numbers[status != 0] = np.nan
    at, arrays = 3, {}
    for name, width in widths.items():
        arrays[name] = numbers[:, at : at + width]
        at += width
    arrays |= {
        "replicate": np.arange(first, stop),
        "sigma": np.exp(numbers[:, 0]),
        "dispersion": np.exp(2 * numbers[:, 0]),
        "loglik": numbers[:, 1],
        "is_singular": numbers[:, 2] > 1,
        "status": status.astype(np.int8),
        "iterations": np.arange(first, stop, dtype=np.int32) % 7,
    }
    return FitBatch(names, arrays)


def batch_of(fits: Sequence[mm.Fit]) -> FitBatch:
    """Fits of one model, as the engine would give them."""
    names = names_of(fits[0].model)
    varcorr = [f.varcorr() for f in fits]
    columns = {
        "replicate": np.arange(len(fits)),
        **{name: np.array([getattr(f, name) for f in fits]) for name in ("fixef", "bse", "theta", "sigma", "loglik")},
        "dispersion": np.array([np.nan if f.dispersion is None else f.dispersion for f in fits]),
        "varcorr_sd": np.array([np.concatenate([b.sd() for b in v.blocks]) for v in varcorr]),
        "varcorr_corr": np.array([_correlations(v) for v in varcorr]).reshape(len(fits), len(names.corr)),
        "is_singular": np.array([f.is_singular for f in fits]),
        "status": np.array([f.diagnostics.status for f in fits], np.int8),
        "iterations": np.array([f.diagnostics.iterations for f in fits], np.int32),
    }
    return FitBatch(names, columns)


def _correlations(varcorr: mm.tables.VarCorr) -> list[float]:
    return [
        b.corr()[i, j]
        for b in varcorr.blocks
        for i in range(len(b.effects))
        for j in range(i + 1, len(b.effects))
        if b.estimated[i, j]
    ]


def assert_same(a: FitBatch, b: FitBatch) -> None:
    """To the bit, with equal types."""
    assert a.names == b.names
    for name, x in a.arrays().items():
        y = b.arrays()[name]
        assert x.dtype == y.dtype and x.shape == y.shape, name
        assert np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes(), name
