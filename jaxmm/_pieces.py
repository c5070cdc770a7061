"""Linear maps of rows, each a primitive whose transpose is one of them again.

    sum_pieces     (.., height, P) -> (.., P)    sums over the rows of each piece
    repeat_pieces  (.., P) -> (.., height, P)    its transpose
    pick           (.., A) -> (.., B)            a permutation with gaps, and its transpose the other way round

As a reduction over an axis that is not the last, XLA on a CPU walks memory in long strides; as sums of halves it is
eight times faster, but autodiff would write the transpose of those as a cascade of padded sums, and that of a gather
as a scatter.

    hold           x -> x                        kept in memory, in derivatives too

XLA on a CPU computes a chain of cheap operations again inside each sum that uses its result (a loop over half a million
rows took 62 ms so, 10 ms with this).  An optimization barrier is gone before it fuses; a branch is not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxmm import costs
from jaxmm._types import Array

sum_p, repeat_p, pick_p = Primitive("sum_pieces"), Primitive("repeat_pieces"), Primitive("pick")
hold_p = Primitive("hold")


def sum_pieces(x: Array) -> Array:
    return sum_p.bind(x)  # pyright: ignore


def repeat_pieces(x: Array, height: int) -> Array:
    return repeat_p.bind(x, height=height)  # pyright: ignore


def pick(x: Array, there: Array, back: Array) -> Array:
    """Element ``there[i]`` of x, or zero where that is A; ``back`` (A,) says the same backwards."""
    return pick_p.bind(x, there, back)  # pyright: ignore


def hold(x: Array) -> Array:
    return hold_p.bind(x)  # pyright: ignore


def apart(f, x):
    """f(x), arrays of the shape of x (one array, or several alike), compiled apart from what uses them; not to be
    differentiated."""
    leaf = jax.tree.leaves(x)[0]
    if leaf.size < costs.HELD_ROWS:
        return f(x)
    first = leaf.ravel()[0]
    always = (first == first) | jnp.isnan(first)  # which the compiler cannot know

    def never(v):
        return jax.tree.map(lambda out: jnp.abs(jax.tree.leaves(v)[0]).astype(out.dtype), jax.eval_shape(f, v))

    return jax.lax.cond(always, f, never, x)


def _held(x):
    return apart(lambda v: v, x)


def _summed(x):
    odd = None
    while x.shape[-2] > 1:
        half = x.shape[-2] // 2
        if x.shape[-2] % 2:
            odd = x[..., -1, :] if odd is None else odd + x[..., -1, :]
        x = x[..., :half, :] + x[..., half : 2 * half, :]
    return x[..., 0, :] if odd is None else x[..., 0, :] + odd


def _repeated(x, *, height):
    return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], height, x.shape[-1]))


def _picked(x, there, back):
    return x.at[..., there].get(mode="fill", fill_value=0)


def _define(primitive, implementation, shape, transpose):
    primitive.def_impl(implementation)
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=False))
    ad.deflinear2(primitive, transpose)

    def batch(args, dims, **params):
        if any(d is not None for d in dims[1:]):
            raise NotImplementedError("the layout of the rows is one for the whole batch")
        return primitive.bind(jnp.moveaxis(args[0], dims[0], 0), *args[1:], **params), 0

    batching.primitive_batchers[primitive] = batch


def _shape(last):
    """The shape of the result from that of x: ``last`` gives (how many of its last axes go, what stands there then)."""

    def shape(x, *others, **params):
        gone, new = last(x, *others, **params)
        return ShapedArray((*x.shape[: x.ndim - gone], *new), x.dtype)

    return shape


_define(sum_p, _summed, _shape(lambda x: (2, x.shape[-1:])), lambda ct, x: [repeat_pieces(ct, x.aval.shape[-2])])
_define(
    repeat_p, _repeated, _shape(lambda x, height: (1, (height, x.shape[-1]))), lambda ct, x, height: [sum_pieces(ct)]
)
_define(
    pick_p,
    _picked,
    _shape(lambda x, there, back: (1, there.shape)),
    lambda ct, x, there, back: [pick(ct, back, there), None, None],
)
_define(hold_p, lambda x: x, _shape(lambda x: (0, ())), lambda ct, x: [hold(ct)])
mlir.register_lowering(hold_p, mlir.lower_fun(_held, multiple_results=False), platform="cpu")
ad.defjvp(pick_p, lambda t, x, there, back: pick(t, there, back), None, None)
