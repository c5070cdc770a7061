"""A B for one small matrix per level, the levels on the last axis: (a, k, J) x (k, c, J) -> (a, c, J).

``einsum`` moves the levels to the front and loops over them on a CPU; unrolled over the short inner axis the
product is k long vector operations, 20 x faster.  Its transpose, as autodiff would write it, is a reduction over a
short axis and just as slow as ``einsum``, so the product is a primitive of its own whose transposes are again
such products.  Where matrices are few and large, as of a factor with one level, they are multiplied as matrices.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxmm import costs
from jaxmm._types import Array

block_matmul_p = Primitive("block_matmul")


def block_matmul(A: Array, B: Array) -> Array:
    """A B per level; the trailing axes of A (a, k, ...) and B (k, c, ...) are the same."""
    return block_matmul_p.bind(A, B)  # pyright: ignore


def _product(A: Array, B: Array) -> Array:
    if min(*A.shape[:2], B.shape[1]) >= costs.WIDE_BLOCK and math.prod(A.shape[2:]) <= costs.FEW_BLOCKS:
        flat = [jnp.moveaxis(x.reshape(*x.shape[:2], -1), -1, 0) for x in (A, B)]
        return jnp.moveaxis(flat[0] @ flat[1], 0, -1).reshape(A.shape[0], *B.shape[1:])
    if A.shape[1] == 0 or A.shape[1] > costs.UNROLLED_PRODUCT:  # along a wide border: too many operations to compile
        return jnp.sum(A[:, :, None] * B[None], axis=1)
    out = A[:, 0, None] * B[None, 0]
    for k in range(1, A.shape[1]):
        out = out + A[:, k, None] * B[None, k]
    return out


@block_matmul_p.def_abstract_eval
def _(A, B):
    if A.shape[1] != B.shape[0] or A.shape[2:] != B.shape[2:] or A.dtype != B.dtype:
        raise TypeError(f"block_matmul of {A.str_short()} and {B.str_short()}")
    return ShapedArray((A.shape[0], *B.shape[1:]), A.dtype)


def _transpose_left(ct, A, B):
    return block_matmul(ct, jnp.swapaxes(B, 0, 1))


def _transpose_right(ct, A, B):
    return block_matmul(jnp.swapaxes(A, 0, 1), ct)


def _batch(args, dims):
    """A batch axis joins the levels' side, behind the two matrix axes."""
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    moved = []
    for x, d in zip(args, dims, strict=True):
        if d is None:
            moved.append(jnp.broadcast_to(x[:, :, None], (*x.shape[:2], size, *x.shape[2:])))
        else:
            moved.append(jnp.moveaxis(x, d, 2))
    return block_matmul(*moved), 2


block_matmul_p.def_impl(_product)
ad.defbilinear(block_matmul_p, _transpose_left, _transpose_right)
batching.primitive_batchers[block_matmul_p] = _batch
mlir.register_lowering(block_matmul_p, mlir.lower_fun(_product, multiple_results=False))
