"""Plain arrays -> Design: the second way in, without a formula or a table.

The checks are those that a table would have had; a column or a level is named by its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import covariance
from jaxmm.covariance import Covariance
from jaxmm.design import DataError, Design
from jaxmm.design.known import known_root
from jaxmm.design.predictor import Factor, RandomTerm, constant, is_one_of_levels
from jaxmm.design.residual import beside_sigma
from jaxmm.design.response import by_position, check_counts, check_support
from jaxmm.families import Family


@dataclass(frozen=True)
class Term:
    """A random-effects term given as arrays.

    Attributes:
        Z: (n, q) columns of the effects, or (n,) for one.
        codes: (n,) the level of each row: integers or labels.
        name: of the grouping factor; terms with the same name share it and must have the same codes.
        effects: names of the columns of Z.
        kind: covariance structure, one of ``covariance.STRUCTURES``, or a ``covariance.Covariance`` of your own for as
            many effects.
        at: what such a structure needs to know beside its parameters, the same for all levels: times or positions of
            the effects, a known matrix.

    Example:
        >>> time = np.tile([0.0, 1.0, 2.0], 4)
        >>> slopes = mm.Term(np.column_stack([np.ones(12), time]), np.repeat(range(4), 3), "subject", ["one", "time"])
        >>> slopes.kind, slopes.Z.shape
        ('us', (12, 2))
    """

    Z: Any
    codes: Any
    name: str | None = None
    effects: Sequence[str] | None = None
    kind: str | Covariance = "us"
    at: Any = None


def design_from_arrays(
    y: Any,
    X: Any,
    terms: Sequence[Term],
    weights: Any,
    offset: Any,
    names: Sequence[str] | None,
    family: Family | None = None,
    trials: Any = None,
) -> Design:
    """A ``Design`` without a formula: the checks that a table would have had.

    For a family with trials y counts the successes in ``trials``: one number or (n,), one each by default.
    """
    y, X = numbers("y", y), numbers("X", X)
    if y.ndim != 1 or X.ndim != 2 or len(X) != len(y):
        raise DataError(f"y must be (n,) and X (n, p); got {y.shape} and {X.shape}")
    n = len(y)
    if not terms:
        raise DataError("give at least one Term: a model without random effects is an ordinary regression")
    columns = tuple(names) if names is not None else tuple(f"x{j}" for j in range(X.shape[1]))
    if len(columns) != X.shape[1]:
        raise DataError(f"names has {len(columns)} entries for {X.shape[1]} columns of X")
    factors: list[Factor] = []
    random: list[RandomTerm] = []
    if len(set(columns)) < len(columns):
        raise DataError(
            f"names repeats {next(c for c in columns if columns.count(c) > 1)!r}: each column needs its own"
        )
    for k, term in enumerate(terms):
        random.append(_random_term(k, term, n, factors, random))
    for label, values in (("y", y), ("X", X), ("weights", weights), ("offset", offset)):
        if values is not None:
            check_finite_array(label, numbers(label, values))
    if offset is not None and np.shape(offset) not in ((), (n,)):
        raise DataError(f"offset must be one number or {n}; got shape {np.shape(offset)}")
    trials = _trials(trials, y, family)
    if weights is not None and (np.shape(weights) != (n,) or np.min(weights) <= 0):
        raise DataError("weights must be n positive numbers; leave rows of weight zero out of the arrays")
    if X.shape[1] >= n or (X.shape[1] and np.linalg.matrix_rank(X) < X.shape[1]):
        raise DataError("X must have fewer columns than rows and full column rank")
    bound, errors = tuple(random), None
    if family is None:
        bound, errors = beside_sigma(bound, factors, None)
    return Design(
        formula=" + ".join(["y ~ X", *(f"({' + '.join(t.effects)} | {factors[t.factor].name})" for t in random)]),
        response="y", y=y, X=X, columns=columns, dropped=(), factors=tuple(factors), terms=bound, residual=errors,
        weights=None if weights is None else np.asarray(weights, float),
        offset=None if offset is None else np.broadcast_to(np.asarray(offset, float), (n,)),
        index=pd.RangeIndex(n), kept=np.ones(n, bool), held_out=None, n_missing=0, y_all=y,
        weights_all=None if weights is None else np.asarray(weights, float), spec=None,  # pyright: ignore
        trials=trials, trials_all=trials,
        further=() if family is None else tuple(constant(p.name, n) for p in family.further),
    )  # fmt: skip


def _random_term(k: int, term: Term, n: int, factors: list[Factor], random: list[RandomTerm]) -> RandomTerm:
    """Term k of a model of n rows, checked; its factor joins ``factors`` where no term before has had it."""
    if not isinstance(term, Term):
        raise TypeError(f"term {k} must be a jaxmm.Term(Z, codes), not {type(term).__name__}")
    Z = numbers(f"Z of term {k}", term.Z)
    Z = Z[:, None] if Z.ndim == 1 else Z
    codes = np.asarray(term.codes)
    if Z.shape[0] != n or codes.shape != (n,):
        raise DataError(f"term {k}: Z {Z.shape} and codes {codes.shape} must have {n} rows")
    check_finite_array(f"Z of term {k}", Z)
    if pd.isna(codes).any():
        raise DataError(f"codes of term {k} are missing in row {int(np.flatnonzero(pd.isna(codes))[0])} (from 0)")
    labels, codes = np.unique(codes, return_inverse=True)
    name = term.name or f"g{k}"
    known = next((i for i, f in enumerate(factors) if f.name == name), None)
    if known is None:
        factors.append(Factor(name, labels.astype(str).astype(object), codes.astype(np.int32)))
        known = len(factors) - 1
    elif not np.array_equal(factors[known].codes, codes):
        raise DataError(f"two terms are called {name!r} but have different codes: give them different names")
    before = sum(len(t.effects) for t in random if t.factor == known)
    given = term.effects if term.effects is not None else [f"z{before + j}" for j in range(Z.shape[1])]
    effects = tuple(given)
    if len(effects) != Z.shape[1]:
        raise DataError(f"term {k}: effects has {len(effects)} names for {Z.shape[1]} columns of Z")
    at = None if term.at is None else numbers(f"at of term {k}", term.at)
    if at is not None:
        check_finite_array(f"at of term {k}", at)
    structure = covariance.get(term.kind, Z.shape[1])
    if structure.positional and structure.takes_inputs:
        at = _positions(k, structure, at)
    if structure.known:
        if at is None:
            raise DataError(f"term {k}: the structure {structure.name!r} needs at=, its known matrix")
        at = known_root(f"term {k}", "at", effects, at)
    _check_structure(k, structure, Z, at)
    return RandomTerm(known, effects, Z, structure, at)


def _positions(k: int, structure: Covariance, at: np.ndarray | None) -> np.ndarray:
    """(q, d) of the effects of term k."""
    q, name = structure.q, structure.name
    if at is None:
        raise DataError(f"term {k}: the structure {name!r} needs at=, the positions of its effects: ({q},) or ({q}, d)")
    at = at[:, None] if at.ndim == 1 else at
    if at.ndim != 2 or len(at) != q or (structure.ordered and at.shape[1] != 1):
        due = f"({q},)" if structure.ordered else f"({q},) or ({q}, d)"
        raise DataError(f"term {k}: at of the structure {name!r} has shape {at.shape}, and must have {due}")
    if structure.ordered and np.any(np.diff(at[:, 0]) <= 0):
        raise DataError(f"term {k}: at of the structure {name!r} must increase: order the columns of Z by their times")
    if len(np.unique(at, axis=0)) < q:
        raise DataError(f"term {k}: at of the structure {name!r} has a position twice: make these effects one")
    return at


def _check_structure(k: int, structure: Covariance, Z: np.ndarray, at: np.ndarray | None) -> None:
    """Whether the structure of term k can have these columns and inputs."""
    q, name = structure.q, structure.name
    if structure.amiss is not None:
        raise DataError(f"term {k}: {structure.amiss}")
    if at is not None and not structure.takes_inputs:
        raise DataError(f"term {k}: the structure {name!r} has no use of at=: leave it out, or give one of your own")
    if structure.levels and not is_one_of_levels(Z):
        raise DataError(
            f"term {k}: the effects of {name!r} are the levels of one factor, in their order: each row of Z has one 1"
        )
    try:
        shape = structure.lam(np.full(structure.num_params, 0.5), at).shape
    except Exception as error:
        given = "without at=" if at is None else f"with at= of shape {at.shape}"
        raise DataError(f"term {k}: factor of the structure {name!r} fails {given}: {error}") from error
    if shape != (q, q):
        raise DataError(f"term {k}: factor of the structure {name!r} gives shape {shape} for {q} effects")


def _trials(trials: Any, y: np.ndarray, family: Family | None) -> np.ndarray | None:
    """(n,) trials of a family that has them; checks that it takes y."""
    if family is None or not family.has_trials:
        if trials is not None:
            who = "a linear mixed model" if family is None else f"the {family.name} family"
            raise DataError(f"{who} has no trials: leave trials= out, or use a family with trials such as 'binomial'")
        check_support(y, family, "y", by_position)
        return None
    count = np.ones(len(y)) if trials is None else numbers("trials", trials)
    if count.shape not in ((), y.shape):
        raise DataError(f"trials must be one number or {len(y)}; got shape {count.shape}")
    count = np.array(np.broadcast_to(count, y.shape))
    check_finite_array("trials", count)
    if (bad := (count <= 0) | (count != np.round(count))).any():
        i = int(np.argmax(bad))
        raise DataError(
            f"trials is {count[i]:g} {by_position(i)}: trials are whole numbers above 0; leave rows without a trial out"
        )
    check_counts(y, count, "y", by_position, "" if trials is not None else "; trials= gives their numbers")
    check_support(y, family, "y", by_position)
    return count


def numbers(label: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise DataError(f"{label} holds text or other things where numbers are due") from None


def check_finite_array(label: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(f"{label} is not finite in row {int(np.argwhere(bad)[0][0])} (from 0)")
