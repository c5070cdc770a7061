"""How many lanes are searched at once: as many as suit the cache of a core, or the accelerator's memory."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.sources.responses import Varying

_data = Program(lambda problem, own: problem.data(own))  # never compiled: what it gives is looked up by shape


def lanes_at_once(model: Any, problem: Any, own: Varying, n: int | None, workers: int, device: Any) -> int:
    """The width of a batch of ``n`` lanes, None where their number is not known, that ``workers`` share; ``own`` has
    the shapes of what one of them has of its own."""
    with computing(model.device):
        data = jax.eval_shape(_data.bind(problem, own).function, problem, own)
    each, given = (8 * sum(x.size for x in jax.tree.leaves(parts)) for parts in (data, own))
    if device.platform == "cpu":
        return _on_cpu(each * problem.temporaries, given, n, workers)
    return _on_accelerator(each * problem.temporaries, n, device)


def _on_cpu(each: int, given: int, n: int | None, workers: int) -> int:
    widths, most = costs.BATCH_WIDTHS, (costs.CACHE_BYTES, costs.RESPONSE_BYTES)
    fits = [w for w in widths if w * each <= most[0] and w * given <= most[1]] or [widths[0]]
    due = costs.WANTED_WIDTHS[-1] if n is None else -(-n // (costs.FILLINGS * workers))
    wanted = next((w for w in costs.WANTED_WIDTHS if w >= due), costs.WANTED_WIDTHS[-1])
    return next((w for w in fits if w >= wanted), fits[-1])


def _on_accelerator(each: int, n: int | None, device: Any) -> int:
    stats = device.memory_stats() or {}
    room = stats.get("bytes_limit", 1 << 34) // 64
    most = 1 << max(6, int(np.log2(max(room // each, 1))))
    wanted = costs.ACCELERATOR_LANES if n is None else 1 << max(6, int(np.ceil(np.log2(max(n, 1)))))
    return min(most, costs.ACCELERATOR_LANES, wanted)
