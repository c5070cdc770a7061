"""Covariance structures of random effects, a file each; ``_base`` says what one supplies.

name      theta (standard deviations relative to sigma in a linear model)     lam
us        column-major lower triangle, q (q + 1) / 2                          lower triangular
diag      q standard deviations                                               diagonal
homdiag   one standard deviation                                              diagonal
cs        roots of q standard deviations, an angle for their one correlation  symmetric root, rows scaled
homcs     one standard deviation, the same angle                              symmetric root
ar1       one standard deviation, an angle for ρ of neighbours                lower triangular
hetar1    roots of q standard deviations, the same angle                      lower triangular
toep      roots of q standard deviations, an angle for each lag               lower triangular
homtoep   one standard deviation, an angle for each lag                       lower triangular
ante      roots of q standard deviations, an angle for each pair of neighbours  lower triangular
ou        one standard deviation, log rate; times                             lower triangular
exp, gau  one standard deviation, log range; positions                        lower triangular
mat       one standard deviation, log of a range, root of smoothness          lower triangular
rr        column-major lower trapezoid of d columns                           lower triangular
propto    one standard deviation; a known matrix                              lower triangular
equalto   nothing; a known matrix                                             lower triangular

A structure of one's own is given to ``Term`` as an instance, or put into ``STRUCTURES``, where formulas find it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxmm.covariance._base import Closed, Covariance, lower
from jaxmm.covariance.ante import AnteDependent
from jaxmm.covariance.ar1 import Autoregressive
from jaxmm.covariance.cs import CompoundSymmetric
from jaxmm.covariance.diag import Diagonal
from jaxmm.covariance.equalto import Equal
from jaxmm.covariance.exp import Exponential
from jaxmm.covariance.gau import Gaussian
from jaxmm.covariance.hetar1 import HeterogeneousAutoregressive
from jaxmm.covariance.homcs import HomogeneousCompoundSymmetric
from jaxmm.covariance.homdiag import HomogeneousDiagonal
from jaxmm.covariance.homtoep import HomogeneousToeplitz
from jaxmm.covariance.mat import Matern
from jaxmm.covariance.ou import OrnsteinUhlenbeck
from jaxmm.covariance.propto import Proportional
from jaxmm.covariance.rr import ReducedRank
from jaxmm.covariance.toep import Toeplitz
from jaxmm.covariance.us import Unstructured

__all__ = ["STRUCTURES", "Closed", "Covariance", "free", "get", "lower", "resized", "simpler"]

STRUCTURES: dict[str, type[Covariance]] = {each.name: each for each in (
    Unstructured, Diagonal, HomogeneousDiagonal, CompoundSymmetric, HomogeneousCompoundSymmetric, Autoregressive,
    HeterogeneousAutoregressive, Toeplitz, HomogeneousToeplitz, AnteDependent, OrnsteinUhlenbeck, Exponential, Gaussian,
    Matern, ReducedRank, Proportional, Equal,
)}  # fmt: skip


def get(kind: str | Covariance, q: int) -> Covariance:
    """The structure called ``kind`` for ``q`` effects, or ``kind`` itself when it is one.

    Raises:
        ValueError: for a name that is not in ``STRUCTURES``, or an instance made for another number of effects.
        TypeError: neither a name nor an instance of ``Covariance``.
    """
    if not isinstance(kind, str | Covariance):
        raise TypeError(
            f"a covariance structure is one of {', '.join(map(repr, STRUCTURES))} or an instance of "
            f"jaxmm.covariance.Covariance, not {kind!r}"
        )
    if not isinstance(kind, str):
        if kind.q != q:
            raise ValueError(f"the covariance structure {kind.name!r} is for {kind.q} effects, the term has {q}")
        return kind
    if kind not in STRUCTURES:
        raise ValueError(f"covariance structure {kind!r} is not available; accepted: {', '.join(STRUCTURES)}")
    return STRUCTURES[kind](q)


def resized(structure: Covariance, q: int) -> Covariance:
    """The same structure for ``q`` effects."""
    return replace(structure, q=q)


SIMPLE = ("toep", "cs", "homcs", "ar1")  # what may do in the place of a structure with more parameters


def simpler(structure: Covariance) -> list[str]:
    """Structures of correlated effects that have fewer parameters; none of one that goes by distances, whose effects
    may have no order."""
    if structure.positional and not structure.levels:
        return []
    return [name for name in SIMPLE if STRUCTURES[name](structure.q).num_params < structure.num_params]


def free(terms: Iterable[Any]) -> np.ndarray:
    """(Q, Q) True where the ``terms`` of one factor together have a covariance: there is none between two of them."""
    own = [term.covariance.free(term.inputs) for term in terms]
    at = np.cumsum([0, *map(len, own)])
    out = np.zeros((at[-1], at[-1]), bool)
    for first, each in zip(at, own, strict=False):
        out[first : first + len(each), first : first + len(each)] = each
    return out
