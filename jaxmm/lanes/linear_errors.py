"""A linear model of any structure whose errors are correlated or of unequal variances: many responses, from the rows,
by ``vmap``.

As ``linear_rows``, with the criterion of one fit: at each theta the rows are made independent (``residual.rows``), and
their cross-products are made anew.  Where lanes miss rows of their own each subject is a pattern of its own.

A search is made from the best of some starts and then from the second best, as that of a single fit is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes import linear_lanes as common
from jaxmm.lanes.advance import LAST, Lanes, Value
from jaxmm.lanes.linear_patterns import ACCEPTED, suits
from jaxmm.lanes.linear_rows import Centred, LinearRows, centred, laid_out
from jaxmm.lanes.own_rows import Effects, Laid
from jaxmm.lanes.problem import Found
from jaxmm.objective.lmm import scaled_deviance
from jaxmm.residual import PatternRows
from jaxmm.residual.starts import usual_errors
from jaxmm.sources.responses import Varying
from jaxmm.start import NEAR_ZERO, independent_theta, moment_start


class ErrorRows(NamedTuple):
    """``at``, what least squares leave of the response (H, P, L) and more; ``W`` (H, P, L) the weights, None where all
    lanes have the model's; ``starts`` (2, m, L), the best and the second best."""

    at: Centred
    W: Any
    starts: Any = None


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["gram", "offset", "starts", "near", "hessian", "harmless", "checks"],
    meta_fields=["effects"],
)
@dataclass(frozen=True)
class LinearErrors:
    """``gram`` of the model with its ``PatternRows``, whose response does not matter; ``offset`` (H, P) of the model;
    ``starts`` (S, k) of the errors' parameters, that suit any lane; ``near`` (m,) another start, of all parameters,
    where the ``hessian`` (m, m) is the first guess; ``checks`` says which lanes are refused; ``effects`` as of
    ``effects_of_terms``."""

    gram: Gram
    offset: Array
    starts: Array
    near: Array
    hessian: Array
    harmless: Array
    checks: LinearRows
    effects: Effects = field(metadata={"static": True})
    accepts = ACCEPTED
    takes_any = forgiving = True
    library = frozenset({"data", "start", "evaluate"})
    polished = False
    steady = 0.0

    @property
    def temporaries(self) -> int:
        return costs.LANE_TEMPORARIES + costs.DENSE_TEMPORARIES

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    # ------------------------------------------------------------ what lanes have
    def refuse(self, own: Varying) -> Array:
        return self.checks.refuse(own)

    def data(self, own: Varying) -> ErrorRows:
        rows = self._rows.rows
        laid = laid_out(rows, self.offset, own, self.gram.structure, self.effects)

        def one(own: Laid) -> Centred:
            at = centred(rows, own)
            return at._replace(e=jnp.where(own.there, at.e, 0.0))

        found = ErrorRows(jax.vmap(one, -1, -1)(laid), None if own.weights is None else laid.W)
        return found._replace(starts=self._starts(found))

    @property
    def _rows(self) -> PatternRows:
        return self.gram.residual

    def _gram(self, own: ErrorRows) -> Gram:
        """Of one lane."""
        model = self._rows
        W = model.rows.weights if own.W is None else own.W
        rows = replace(model.rows, y=own.at.e, weights=W)
        patterns = model.patterns
        if own.W is not None and patterns is not None:
            patterns = patterns.of_each(W > 0)
        couplings = self.gram.structure.solver.of_rows(rows, (W,), jnp.concatenate([rows.X, rows.y[None]]))
        return replace(
            self.gram,
            couplings=couplings,
            beta0=own.at.beta0,
            sum_log_weights=own.at.log_weights,
            n_obs=own.at.n_obs,
            residual=replace(model, rows=rows, patterns=patterns),
        )

    # ------------------------------------------------------------ the search
    def _starts(self, data: ErrorRows) -> Array:
        s = self.gram.structure

        def one(own: ErrorRows) -> Array:
            gram = self._gram(own)
            random = [moment_start(gram, jnp), independent_theta(gram, NEAR_ZERO, jnp)] if s.terms else [jnp.zeros(0)]
            both = [jnp.concatenate([theta, rho]) for theta in random for rho in self.starts]
            given = jnp.stack([*both, self.near])
            values = jax.lax.map(lambda theta: scaled_deviance(theta, gram), given)
            return given[jnp.argsort(jnp.where(jnp.isfinite(values), values, jnp.inf))[:2]]

        return jax.vmap(one, -1, -1)(data)

    def start(self, data: ErrorRows) -> Array:
        return data.starts[0]

    def prepare(self, theta: Array, data: ErrorRows) -> Any:
        return *common.nothing_linear(self.gram.structure, data.at.log_weights), data.starts[1]

    def guess(self, theta: Array) -> Array:
        return jnp.broadcast_to(self.hessian[:, :, None], (*self.hessian.shape, theta.shape[-1]))

    def evaluate(self, theta: Array, data: ErrorRows, kept: Any) -> Value:
        at = common.evaluate_lanes(theta, data, self._gram)
        return at._replace(kept=(*at.kept, kept[3]))

    def doubtful(self, s: Lanes) -> Array:
        return (s.round < LAST) & bool(self.gram.structure.terms)

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        return s.kept[3], s.kept, jnp.full_like(s.round, LAST)

    def outcome(self, s: Lanes, data: ErrorRows) -> Any:
        return s.theta, s.value, s.kept[:3], s.status

    def found(self, outcome: Any) -> Found:
        return common.linear_found(outcome, self.gram)

    def residual(self, data: ErrorRows) -> Any:
        return common.residual_linear(self.gram.structure, data.at.n_obs)


def can_have_errors(model: Any, varies: frozenset[str]) -> bool:
    """Whether lanes of a model can be searched so: its errors' parameters are few, and so are the rows of a subject."""
    own = model.arrays.residual
    if not isinstance(own, PatternRows) or not suits(model, varies):
        return False
    longest = costs.UNROLLED_ROOT if "weights" in varies else costs.UNROLLED_BLOCKS
    return own.patterns is None or len(own.patterns.there) <= longest


def linear_errors(
    gram: Gram, d: Any, near: np.ndarray, hessian: np.ndarray, checks: LinearRows, harmless: np.ndarray
) -> LinearErrors:
    """Of a model's arrays and design ``d``; ``near`` (m,) a start, ``hessian`` a positive definite one there."""
    starts = usual_errors(gram.residual, gram.structure.residual)  # pyright: ignore
    source = np.asarray(gram.residual.rows.source)
    offset = np.zeros(source.shape) if d.offset is None else d.offset[source]
    return LinearErrors(gram, offset, np.stack(starts), near, hessian, harmless, checks, checks.effects)  # pyright: ignore
