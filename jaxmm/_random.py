"""Keys and normal numbers: replicate k depends on the key and on k alone, whatever the number of replicates.

Normal numbers come in pairs from pairs (a, b) of 64 random bits (Box & Muller 1958, Ann. Math. Stat. 29(2)):

    r = sqrt(-2 log u), u in (0, 1] from a;   r cos t, r sin t, t uniform on a circle from b

The bits are those of Threefry-2x32 (Salmon et al. 2011, doi:10.1145/2063384.2063405), a function of a key and a
counter, whatever generator the caller's JAX is set to.  Logarithm, sine and cosine are written out as series, without a
branch, so that the compiler makes wide instructions of the whole chain: faster than ``jax.random.normal``.
u is a multiple of 2^-52, so that no number is beyond 8.5 in size (fewer than one in 10^16 normal numbers would be).

A compiler may fuse a product with the sum that it goes into, rounding once, and whether it does depends on the shapes
of the arrays and on the processor.  ``apart`` keeps them apart, so that the numbers are the same to the bit everywhere.
"""

from __future__ import annotations

import math
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import check_not_forked, check_not_traced
from jaxmm._types import Array

ZERO = np.uint64(0)  # an argument of the programs: see ``apart``
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
ONE = 0x3FF0000000000000  # the bits of 1.0
ROOT_HALF = 0x3FE6A09E667F3BCD  # of the square root of a half
ATANH = [0.25**k / (2 * k + 1) for k in range(1, 11)]  # 2 atanh(s / 2) = s + s³ Σ ATANH[k] s^2k
TAYLOR = [(-1) ** (k // 2) / math.factorial(k) for k in range(17)]  # of the sine and the cosine

_ACCEPTED = (
    "key must be a seed, a whole number from 0 to 4294967295 such as key=1, or one JAX key such as jax.random.key(0)"
)


def as_key(key: Any) -> jax.Array:
    """What a user gives as ``key=``, as a PRNG key: a whole number is its seed, a key of the old style may be NumPy's.

    Seeds end at 2^32 - 1: of larger ones JAX would take other bits in 32-bit mode than in 64-bit mode.

    Raises:
        TypeError: neither, with both ways to say it; a key that JAX traces.
        ValueError: a whole number that is no seed.
        RuntimeError: the process was forked from one in which JAX had started.
    """
    check_not_forked()
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if not 0 <= key < 1 << 32:
            raise ValueError(f"key={key} is no seed: {_ACCEPTED}")
        return jax.random.key(int(key))
    check_not_traced("what takes a key here", key)
    found: Any = jnp.asarray(key) if isinstance(key, np.ndarray) and key.dtype == np.uint32 else key
    is_key = isinstance(found, jax.Array) and (
        found.shape == () if jnp.issubdtype(found.dtype, jax.dtypes.prng_key)
        else found.dtype == jnp.uint32 and found.shape == (2,)
    )  # fmt: skip
    if not is_key:
        given = f"an array of shape {np.shape(key)}" if np.ndim(key) else repr(key)
        raise TypeError(f"{_ACCEPTED}, not {given}: results are reproducible by it alone")
    return found


def words(key: jax.Array) -> np.ndarray:
    """(2,) uint32, the Threefry key of a key; one of another generator, with more words, is hashed to two."""
    data = np.asarray(jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key).ravel()
    data = np.append(data, np.zeros(len(data) % 2, data.dtype)).astype(np.uint32)
    found, *more = data.reshape(-1, 2)
    for pair in more:
        found = np.stack([np.asarray(x) for x in threefry(*map(jnp.asarray, (*found, *pair)))])
    return found


@partial(Program, static_argnums=(2, 3), size=lambda *_: 0)  # whole numbers, few of them: nothing to optimise
def _replicate_words(key: Array, first: Array, n: int, uses: int) -> tuple[Array, ...]:
    k = first + jnp.arange(n, dtype=jnp.uint32)
    zero = jnp.zeros_like(k)
    own = threefry(key[0], key[1], zero, k)
    return tuple(jnp.stack(threefry(*own, zero, zero + use), axis=1) for use in range(uses))


def replicate_words(own: Any, first: int, n: int, uses: int = 2) -> tuple[Array, ...]:
    """From the ``words`` of a key two keys (n, 2) uint32 for each of the replicates first, .., first + n - 1 < 2^32:
    for its random effects and for its response; a third, of three ``uses``, for whatever else is drawn."""
    check_not_forked()
    return _replicate_words(own, np.uint32(first), n, uses)


def replicate_keys(key: jax.Array, first: int, n: int) -> tuple[jax.Array, jax.Array]:
    """``replicate_words`` of a key, as keys (n,)."""
    effects, response, *_ = replicate_words(words(key), first, n)
    return as_keys(effects), as_keys(response)


def as_keys(data: Array) -> jax.Array:
    """(.., 2) words -> keys (..)."""
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def apart_key(key: Any, use: str) -> np.ndarray:
    """(2,) uint32, a key for another ``use`` than the one that ``key`` itself serves, told by its name."""
    name = zlib.crc32(use.encode())
    own = jnp.asarray(words(as_key(key)))
    with jax.enable_x64(True):
        pair = threefry(own[0], own[1], jnp.uint32(name), jnp.uint32(1 << 31))
    return np.stack([np.asarray(x) for x in pair])


def normals(keys: jax.Array, size: int) -> jax.Array:
    """(n, size) standard normal numbers, float64, a row for each key."""
    return normals_of(jax.random.key_data(keys), size)


def normals_of(data: Array, size: int) -> Array:
    """``normals`` of the words (n, 2) of the keys."""
    return _from_bits(*random_bits(data, size), size, ZERO)


@partial(Program, static_argnums=(1,))
def random_bits(data: Array, size: int) -> tuple[Array, Array]:
    """What ``from_bits`` makes ``size`` numbers of, a row for each key: two arrays (n, size / 2) of uint64.

    A program apart: fused with what follows, the cipher would be computed once for each use of its bits.
    """
    half = (size + 1) // 2
    counter = jnp.arange(half, dtype=jnp.uint32)[None]
    a, b = (threefry(data[:, :1], data[:, 1:], jnp.uint32(0), counter + jnp.uint32(at)) for at in (0, half))
    return _joined(*a), _joined(*b)


def from_bits(a: Array, b: Array, size: int, zero: Any) -> Array:
    """(n, size) standard normal numbers; ``zero`` as in ``apart``."""
    r = jnp.sqrt(-2.0 * log(2.0 - _from_one(a), zero))
    # t within an eighth of a turn of the first axis; then either half of it, then either axis
    sine, cosine = sine_cosine((_from_one(b) - 1.5) * (math.pi / 2), zero)
    cosine = _floats(_bits(cosine) ^ ((b << 62) & jnp.uint64(1 << 63)))
    first = (b & 1) == 0
    return jnp.concatenate([r * jnp.where(first, cosine, sine), r * jnp.where(first, sine, cosine)], axis=1)[:, :size]


_from_bits = Program(from_bits, (2,))


def threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Array, Array]:
    """The block cipher, 20 rounds: two words of key, two of counter, each uint32."""
    keys = (k0, k1, k0 ^ k1 ^ jnp.uint32(PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for turn in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = ((x1 << jnp.uint32(turn)) | (x1 >> jnp.uint32(32 - turn))) ^ x0
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x0, x1


def apart(product: Array, zero: Any) -> Array:
    """The product itself, rounded before it goes into a sum: ``zero`` is ZERO, which the compiler must not know, and so
    an argument of the compiled function."""
    return _floats(_bits(product) ^ zero)


def log(u: Array, zero: Any) -> Array:
    """Natural logarithm of normal float64: u = 2^e m with m in [√½, √2), and log m = 2 atanh(s / 2), s from m.

    The next term of the series would be below 1e-17.
    """
    bits = _bits(u)
    e = jax.lax.shift_right_arithmetic((bits - jnp.uint64(ROOT_HALF)).astype(jnp.int64), jnp.int64(52))
    m = _floats(bits - (e.astype(jnp.uint64) << 52))
    s = (m - 1.0) / (0.5 * m + 0.5)  # the product is exact
    square = s * s
    high = apart(e.astype(jnp.float64) * math.log(2.0), zero) + s
    return high + apart(s * (square * _series(square, ATANH, zero)), zero)


def sine_cosine(t: Array, zero: Any) -> tuple[Array, Array]:
    """Of |t| <= π/4: Taylor's series; the next terms would be below 1e-16."""
    square = t * t
    return t * _series(square, TAYLOR[1:17:2], zero), _series(square, TAYLOR[0:17:2], zero)


def _series(x: Array, terms: list[float], zero: Any) -> Array:
    total = jnp.full_like(x, terms[-1])
    for term in terms[-2::-1]:
        total = apart(total * x, zero) + term
    return total


def _joined(high: Array, low: Array) -> Array:
    return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)


def _from_one(bits: Array) -> Array:
    """Uniform on [1, 2) from the upper 52 of 64 bits."""
    return _floats((bits >> 12) | jnp.uint64(ONE))


def _bits(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint64)


def _floats(bits: Array) -> Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float64)
