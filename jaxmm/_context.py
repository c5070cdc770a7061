"""Where and how the first layer computes: float64 on a chosen device, leaving the caller's settings alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxmm import costs
from jaxmm.structure import Structure

try:  # there is no public context manager for this setting
    from jax._src.config import persistent_cache_min_compile_time_secs as _min_compile_time
except ImportError:  # pragma: no cover
    _min_compile_time = None
try:  # nor a public word for this
    from jax._src.xla_bridge import backends_are_initialized as _jax_has_started
except ImportError:  # pragma: no cover

    def _jax_has_started() -> bool:
        return False


_imported_in = os.getpid()
_computed_in: set[int] = set()  # processes, this one and those that it was forked from


@contextmanager
def computing(device: Any) -> Iterator[None]:
    """float64, on ``device``; programs of any compile time may enter the persistent cache (ours take 0.2-2 s).

    Raises:
        RuntimeError: the process was forked from one in which JAX had started.
    """
    check_not_forked()
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_device(device))
        if _min_compile_time is not None:
            stack.enter_context(_min_compile_time(0.0))
        yield


def check_not_forked() -> None:
    """Raises RuntimeError in a process that was forked after JAX had started: it has not the threads that JAX would
    wait for, for ever."""
    me = os.getpid()
    if me in _computed_in:
        return
    if _computed_in or (me != _imported_in and _jax_has_started()):
        raise RuntimeError(
            "this process was forked after JAX had started, and JAX's threads are not in it: what it computes may "
            'never end; start processes by multiprocessing.get_context("spawn") or "forkserver", or joblib\'s "loky"'
        )
    _computed_in.add(me)


def check_not_traced(what: str, *given: Any) -> None:
    """Raises TypeError where JAX traces one of ``given``, or all that is computed here: ``what`` needs the numbers."""
    rows = (row for x in given if isinstance(x, list | tuple) for row in x)
    if any(isinstance(x, Tracer) for x in (*given, *rows, jnp.zeros(()))):
        raise TypeError(
            f"{what} works on the host and cannot be traced by jax.jit, grad or vmap: call it outside of them, or use "
            "jaxmm.estimate(model.arrays), which is a pure function"
        )


def choose_device(wanted: Any, structure: Structure) -> Any:
    """The device of a single fit.

    Raises:
        ValueError: a device that JAX does not see here.
    """
    if isinstance(wanted, jax.Device):
        return wanted
    if wanted == "auto":
        wanted = "default" if structure.rest_size >= costs.GPU_REST else "cpu"
    if wanted == "default":
        return jax.local_devices()[0]
    if wanted not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"control.device must be 'auto', 'cpu', 'gpu' or a jax.Device, not {wanted!r}")
    try:
        return jax.local_devices(backend=wanted)[0]
    except RuntimeError as problem:
        raise ValueError(f"control.device is {wanted!r}, but JAX sees no such device here") from problem


def devices_of(wanted: Any) -> list[Any]:
    """The local devices to compute on.

    Raises:
        ValueError: a device that JAX does not see here.
    """
    if isinstance(wanted, jax.Device):
        return [wanted]
    if wanted == "auto":
        return jax.local_devices()
    if not isinstance(wanted, str):
        raise ValueError(f"control.device must be 'auto', 'cpu', 'gpu' or a jax.Device, not {wanted!r}")
    try:
        return jax.local_devices(backend=wanted)
    except (RuntimeError, TypeError) as problem:
        raise ValueError(f"control.device is {wanted!r}, but JAX sees no such device here") from problem


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
