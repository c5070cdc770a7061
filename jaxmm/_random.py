"""Keys and normal numbers: replicate k depends on the key and on k alone, whatever the number of replicates."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_key(key: Any) -> jax.Array:
    """A PRNG key.

    Raises:
        TypeError: no key, with how to make one.
    """
    is_key = isinstance(key, jax.Array) and (
        key.shape == () if jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        else key.dtype == jnp.uint32 and key.shape == (2,)
    )  # fmt: skip
    if not is_key:
        given = f"an array of shape {np.shape(key)}" if np.ndim(key) else repr(key)
        raise TypeError(
            f"key must be one JAX key such as jax.random.key(0), not {given}: results are reproducible by it alone"
        )
    return key


@partial(jax.jit, static_argnums=2)
def replicate_keys(key: jax.Array, first: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Two keys for each of the replicates first, .., first + n - 1: for its random effects and for its response."""
    pairs = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(key, k)))(first + jnp.arange(n))
    return pairs[:, 0], pairs[:, 1]


@partial(jax.jit, static_argnums=1)
def normals(keys: jax.Array, size: int) -> jax.Array:
    """(n, size) standard normal numbers, a row for each key."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,), jnp.float64))(keys)
