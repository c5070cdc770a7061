"""How many lanes are searched at once: as many as suit the cache of a core, or the accelerator's memory."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxmm import costs
from jaxmm._context import computing
from jaxmm.batch.setup import example


def lanes_at_once(model: Any, problem: Any, varies: frozenset[str], n: int | None, workers: int, device: Any) -> int:
    """The width of a batch of ``n`` lanes, None where their number is not known, that ``workers`` share."""
    each = _bytes(model, problem, varies) * problem.temporaries
    if device.platform == "cpu":
        return _on_cpu(each, 8 * len(model.design.y), n, workers)
    return _on_accelerator(each, n, device)


def _bytes(model: Any, problem: Any, varies: frozenset[str]) -> int:
    """Of the data of one lane."""
    with computing(model.device):
        own = example(model, varies)
        data = jax.eval_shape(lambda problem, own: problem.data(own), problem, own)
    return 8 * sum(x.size for x in jax.tree.leaves(data))


def _on_cpu(each: int, response: int, n: int | None, workers: int) -> int:
    widths, most = costs.BATCH_WIDTHS, (costs.CACHE_BYTES, costs.RESPONSE_BYTES)
    fits = [w for w in widths if w * each <= most[0] and w * response <= most[1]] or [widths[0]]
    wanted = fits[-1] if n is None else max(-(-n // (costs.FILLINGS * workers)), 64)
    return next((w for w in fits if w >= wanted), fits[-1])


def _on_accelerator(each: int, n: int | None, device: Any) -> int:
    stats = device.memory_stats() or {}
    room = stats.get("bytes_limit", 1 << 34) // 64
    most = 1 << max(6, int(np.log2(max(room // each, 1))))
    wanted = costs.ACCELERATOR_LANES if n is None else 1 << max(6, int(np.ceil(np.log2(max(n, 1)))))
    return min(most, costs.ACCELERATOR_LANES, wanted)
