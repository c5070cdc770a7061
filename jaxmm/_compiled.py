"""Compiled programs in a bounded store, of which the least recently used go.

A compiled program takes memory of its own and up to several hundred of the memory maps that a process may have (65,530
on Linux), and JAX keeps all that a jitted function was ever compiled for.  Here each combination of shapes and static
arguments is a jitted function of its own: the store holds ``costs.PROGRAMS_KEPT`` of them, and what it drops is freed
as soon as nobody else works with it.
"""

from __future__ import annotations

import ctypes
import gc
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, wraps
from threading import Lock
from typing import Any

import jax
import numpy as np

from jaxmm import costs
from jaxmm._waiting import FirstCall

# one piece of code for each program, not optimised: ready in a third of the time, in a fifth of the maps
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


# level of optimisation as ever: lanes of rows run in half the time of fused ones (jaxlib 0.10.2), and compile in 3/4
UNFUSED = {"xla_cpu_use_fusion_emitters": False}


@cache
def unfused_options() -> dict[str, Any]:
    """``UNFUSED`` where this version of XLA knows it, else nothing."""
    return UNFUSED if _is_known(UNFUSED) else {}


def _is_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(np.float32(0.0)).compile()
    except Exception:  # whatever a version raises for an option that it does not know
        return False
    return True


@cache
def quick_options() -> dict[str, Any]:
    """``QUICK`` where this version of XLA knows all of it, else nothing.

    Not a part of it: without the second option (from jaxlib 0.11 on there is none) the first makes code that runs
    seven times as long, and saves little.
    """
    return QUICK if _is_known(QUICK) else {}


class _Store:
    """Key -> jitted function; the last ``most`` that were asked for."""

    def __init__(self, most: int):
        self.most, self.kept, self.lock, self.dropped = most, OrderedDict(), Lock(), 0

    def get(self, key: Any, make: Callable[[], Callable]) -> Callable:
        with self.lock:
            found = self.kept.get(key)
            if found is None:
                found = self.kept[key] = make()
                while len(self.kept) > self.most:
                    self.kept.popitem(last=False)
                    self.dropped += 1
            else:
                self.kept.move_to_end(key)
            many = self.dropped >= costs.PROGRAMS_DROPPED
            self.dropped = 0 if many else self.dropped
        if many:
            give_back()
        return found

    def clear(self) -> None:
        with self.lock:
            self.kept.clear()


STORE = _Store(costs.PROGRAMS_KEPT)


@cache
def _trim() -> Callable | None:
    """glibc's ``malloc_trim``, where there is one: what programs leave stays with the process without it."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def give_back() -> None:
    """What nobody refers to any more is found, and memory that is free goes back to the system."""
    gc.collect()
    if (trim := _trim()) is not None:
        trim(0)


class Program:
    """A jitted function whose compiled forms are kept in the store.

    ``size`` tells from the arguments how much there is to compute: what is small is compiled in a quarter of the time,
    with ``quick_options``.
    """

    def __init__(
        self, function: Callable, static_argnums: tuple[int, ...] = (), size: Callable[..., int] | None = None
    ):
        self.function, self.static, self.size = function, frozenset(static_argnums), size

    def bind(self, *args: Any, options: Callable[[], dict[str, Any]] | None = None) -> Callable:
        """The jitted function for arguments of these shapes, to be called with such: a loop asks for it once.
        ``options``: gives what the compiler is told, ``quick_options`` or ``unfused_options``."""
        static = tuple(args[i] for i in sorted(self.static))
        leaves, tree = jax.tree.flatten([x for i, x in enumerate(args) if i not in self.static])
        shapes = tuple((x.shape, x.dtype) if hasattr(x, "dtype") else type(x) for x in leaves)
        if options is None and self.size is not None and self.size(*args) < costs.SMALL_PROGRAM:
            options = quick_options
        return STORE.get((self, options, static, tree, shapes), lambda: self._jitted(options))

    def __call__(self, *args: Any) -> Any:
        return self.bind(*args)(*args)

    def _jitted(self, options: Callable[[], dict[str, Any]] | None) -> Callable:
        @wraps(self.function)
        def own(*args):  # a function of its own, since JAX's caches live as long as the function does
            return self.function(*args)

        told = None if options is None else options() or None
        return FirstCall(jax.jit(own, static_argnums=tuple(self.static), compiler_options=told))


def bucket(n: int) -> int:
    """A length of at least n, so that arrays of nearly one length share their programs: at most a quarter more, or an
    eighth of what is not small."""
    step = 1 << max(5, n.bit_length() - (3 if n < costs.SMALL_PROGRAM else 4))
    return n if n > costs.LONG_ROWS else -(-n // step) * step


def filled(x: np.ndarray, length: int, value: float) -> np.ndarray:
    """x (n,) and so many times ``value`` that the length is reached."""
    out = np.full(length, value)
    out[: len(x)] = x
    return out


class Elementwise:
    """A function of an object and of arrays, element by element, on the host: NumPy in, NumPy out.

    Arrays go in flat and filled up with copies of their last number to the length of their ``bucket``.
    """

    def __init__(self, function: Callable):
        self.program = Program(function, (0,))

    def __call__(self, of: Any, *arrays: Any, shared: tuple[Any, ...] = ()) -> np.ndarray:
        """``shared``: what all elements have in common; the function takes it after the object."""
        values = np.broadcast_arrays(*[np.asarray(x, float) for x in arrays])
        shape, size = values[0].shape, values[0].size
        flat = [filled(x.ravel(), bucket(max(size, costs.SHORT_ROWS)), x.flat[-1] if size else 1.0) for x in values]
        return np.asarray(self.program(of, *shared, *flat))[:size].reshape(shape)
