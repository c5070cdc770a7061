"""The array alias and the legend of letters.

One letter means one thing everywhere::

    n  rows of the data             J  levels of a grouping factor
    p  columns of X                 q  effects per level of a factor (or of a term)
    m  length of theta              r  columns of a border: the dense rest, X and y together
    Q  J times q, the effects of a factor; Q_R those of the dense rest

Arrays that hold one small matrix per level keep the levels on the **last** axis, ``(q, q, J)``: a product of
2 x 2 matrices is then a handful of long vector operations, where a library would loop over the levels.
"""

from __future__ import annotations

from typing import TypeAlias

import jax

Array: TypeAlias = jax.Array
