"""permutation_test: many responses of one design -> p-values of a term that hold for all of them together.

    null model     fitted once to each response, without the term's columns: its marginal residuals r
    permutation    r rearranged by a scheme, the same for all responses, and the full model fitted to what comes of it
    statistic      t or F of the term in each fit, a score per response, the largest of which counts

Everything but the fits (``batch.engine``) is small: the permutations go through in blocks, of which a maximum each and
counts are kept (``tally``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._context import computing
from jaxmm._keywords import known_keywords
from jaxmm._random import as_key, words
from jaxmm.batch.engine import fit_many, progress_bar
from jaxmm.design import DataError
from jaxmm.inference.wald import check_level
from jaxmm.optimize import Status
from jaxmm.permute.adjacency import as_adjacency
from jaxmm.permute.result import PermutationResult
from jaxmm.permute.schemes import SCHEMES, Move, Permutations
from jaxmm.permute.source import Rearranged, Residuals
from jaxmm.permute.statistics import FORMING, Enhanced, Largest, Mass, Score, height, wald
from jaxmm.permute.tally import Kept, Tally
from jaxmm.results.result import FitBatch
from jaxmm.results.store import as_folder
from jaxmm.sources import labelled
from jaxmm.sources.direct import design_of
from jaxmm.sources.labelled import Labels
from jaxmm.sources.responses import as_responses, fingerprint, unfitted
from jaxmm.start_given import scaled_theta
from jaxmm.studies.hypotheses import columns_of, without

STATISTICS = ("max", "cluster", "tfce")
READ = 4096  # responses that are read at a time
PERMUTING = {
    "seed": "key=seed",
    "n_permutations": "the number of permutations is n=",
    "nperm": "the number of permutations is n=",
    "tail": "the tests are two-sided",
    "test": "the term to test is term=",
    "connectivity": "the neighbours are adjacency=",
    "t_threshold": "threshold= is of |t|, threshold_p= the p that it stands for",
}


@known_keywords(PERMUTING, required={"term": "a column or a term of the formula, such as 'Days'", "Y": "the responses"})
def permutation_test(
    model: Any,
    Y: Any,
    term: str | Sequence[str],
    *,
    key: Any,
    n: int = 1000,
    scheme: str = "sign",
    statistic: str = "max",
    adjacency: Any = None,
    threshold: float | None = None,
    threshold_p: float | None = None,
    step_down: bool = False,
    weights: Any = None,
    missing: str = "drop",
    batch: int | None = None,
    out: Any = None,
    progress: bool = True,
    control: Any = None,
    dim: str | None = None,
    layer: str | None = None,
) -> PermutationResult:
    """Test a term in many responses of one linear mixed model, with family-wise error by permutation.

    The model without the term is fitted to each response once; its residuals, about X₀β̂₀ and with the random effects in
    them, are rearranged as the random effects allow, the same way in all responses, and the full model is fitted to what
    comes of it (Freedman & Lane 1983; Winkler et al. 2014, NeuroImage 92, 381-397). Every fit is a search for the
    variances of its own.

    Args:
        model: a linear ``Model``, or a ``Fit`` whose model is meant.
        Y: the responses as ``fit_many`` takes them: (V, nobs), a table, a DataArray, an AnnData; no iterator.
        term: a column of X, a term of the formula, or several.
        key: a seed, such as 1, or a key, such as ``jax.random.key(1)``. Permutation k depends on it and on k alone.
        n: permutations, the data as they are among them: no p is below 1/n. Where there are no more distinct ones,
            each of them is made once in the place of ``n`` random ones.
        scheme: what is exchangeable if the term has no effect:

            - "sign": whole groups change their sign; groups are the levels of the outermost factor. It needs residuals
              that are symmetric about zero, and holds with random slopes, unequal variances and unequal groups; exact
              for small samples where nothing but the term is estimated from the same contrast (a balanced effect within
              groups), else asymptotically, with the number of groups.
            - "within": rows change places within groups, more exactly among rows with the same levels of all factors
              and the same random effects: for terms that vary within groups and have no random slope.
            - "groups": whole groups change places with groups whose rows have the same random effects: for terms that
              are constant within groups. Exact where the model without the term has but an intercept, and within blocks
              of equal covariates; else asymptotically. It takes the groups' variances for equal.
            - "wild": the wild bootstrap of whole groups (Cameron, Gelbach & Miller 2008, Rev. Econ. Stat. 90, 414-427):
              as "sign", but always drawn, with replacement. "wild-mammen" and "wild-webb" multiply by the two values of
              Mammen (1993), for skewed residuals, and by Webb's (2023) six, for fewer than ten groups.
        statistic: "max", the largest |t| of all responses (F of several columns; Westfall & Young 1993); "cluster", the
            mass Σ|t| of the largest cluster above a threshold (Maris & Oostenveld 2007, J. Neurosci. Methods 164);
            "tfce", threshold-free enhancement with E = 0.5, H = 2, dh = 0.1 (Smith & Nichols 2009, NeuroImage 44). A
            p by cluster says that there is an effect in the cluster, not where.
        adjacency: neighbours among the responses, for "cluster" and "tfce": a symmetric matrix (V, V), sparse or not;
            pairs of numbers (E, 2); or from ``grid_adjacency``, ``adjacency_of``.
        threshold: |t| (or F) from which on responses join clusters.
        threshold_p: the same as a two-sided p of the normal distribution, 0.01 unless one of the two is given; it is a
            choice made before, and the test holds whatever it is.
        step_down: whether p of "max" leaves out the responses with larger |t|: never larger, and as valid.
        weights: (V, nobs) precisions of each response, in the place of the model's; a row of weight zero is missing.
        missing: "drop", a NaN in Y leaves that row out of that response; "refuse", it is an error.
        batch: lanes that are searched at once, as in ``fit_many``.
        out: a folder in which the counts are kept after each block of permutations: a run that was cut off goes on.
        progress: whether to show a progress bar.
        control: ``Control`` or its settings, of every search.
        dim, layer: as in ``fit_many``.

    Returns:
        ``PermutationResult``: ``frame`` with ``p`` of each response by itself and ``p_fwe`` over all, ``clusters``,
        ``null``; print or plot it. A response that cannot be fitted has NaN; a permutation in which its fit failed
        leaves it out of that maximum, and ``failed`` counts them.

    Raises:
        ValueError: a generalised model; a term that the model has not; a scheme that the design forbids, with the one
            to use; an adjacency of another size; neighbours or thresholds for "max".
        DataError: responses of another length; NaN with ``missing="refuse"``.

    The same key gives the same result whatever ``batch`` and the number of cores. Random slopes of the term itself ask
    for "sign" or "wild": rows of one group then differ in their variances, whitening by which would depend on them.

    Example:
        >>> Y = fit.simulate(5, key=1)
        >>> mm.permutation_test(fit, Y, "Days", key=1, n=20, progress=False).frame["p_fwe"].tolist()
        [0.05, 0.05, 0.05, 0.05, 0.05]
    """
    model = unfitted(model)
    columns = _columns(model, term)
    moves = Permutations(_scheme(model, columns, scheme), _number(n), words(as_key(key)))
    Y, labels = labelled.read(Y, model.design, dim, layer)
    rows = _rows(Y, model, missing)
    score = _score(statistic, adjacency, (threshold, threshold_p), len(rows), labels, len(columns))
    if step_down and statistic != "max":
        raise ValueError(f"step_down=True is for statistic='max': {statistic!r} has no scores of single responses")
    lanes = _Lanes(rows, _weights(weights, rows, model, moves))
    options = {"batch": batch, "control": control, "progress": False}
    null = _Null(model, columns, lanes, options)
    folder = None if out is None else as_folder(out)
    identity = {
        "formula": model.design.formula,
        "design": design_of(model, model.design.offset),
        "responses": fingerprint(rows, *(() if lanes.weights is None else (lanes.weights,))),
        "term": list(columns),
        "scheme": scheme,
        "key": [int(x) for x in words(as_key(key))],
        "n": moves.n,
        "reml": bool(model.reml),
        **score.identity(),
    }
    run = _Run(model, columns, null, moves, score, options)
    with progress_bar(progress, moves.n * len(null.usable)) as tick:
        tally, observed = run.all(None if folder is None else Kept(folder, identity), tick)
    return PermutationResult(
        formula=model.design.formula,
        columns=columns,
        scheme=scheme,
        statistic=score,
        complete=moves.complete,
        step_down=step_down,
        tally=tally,
        observed=observed,
        missing=lanes.missing,
        labels=labels,
        notes=(*moves.scheme.notes, *run.notes(tally)),
    )


# ---------------------------------------------------------------- what is asked for
def _columns(model: Any, term: Any) -> tuple[str, ...]:
    """Raises ValueError for a model or a term that cannot be tested so."""
    if not model.likelihood.exact:
        raise ValueError(
            f"permutation_test is for linear models, whose residuals may change places, and this is a "
            f"{model.likelihood.family.name} model: fit_many(...).test_table() tests many responses, bootstrap() one"
        )
    columns = columns_of(model.design, term)
    if not columns:
        raise ValueError("term names no column: give a term of the formula, such as 'Days'")
    if len(columns) > 1:
        raise ValueError(
            f"term has the columns {', '.join(map(repr, columns))}, and a test of several at once is not available "
            "yet: name one of them"
        )
    return columns


def _scheme(model: Any, columns: tuple[str, ...], scheme: Any) -> Any:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, not {scheme!r}")
    return SCHEMES[scheme](model, columns)


def _number(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise ValueError(f"n must be a number of permutations, the data as they are among them, from 2 on, not {n!r}")
    return int(n)


def _score(
    statistic: Any,
    adjacency: Any,
    thresholds: tuple[float | None, float | None],
    size: int,
    labels: Labels | None,
    k: int,
) -> Score:
    """Raises ValueError for an unknown statistic, and for what it needs and has not, or has and does not need."""
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(map(repr, STATISTICS))}, not {statistic!r}")
    given = [name for name, x in zip(("threshold", "threshold_p"), thresholds, strict=True) if x is not None]
    if given and statistic != "cluster":
        raise ValueError(f"{given[0]}= is for statistic='cluster', not {statistic!r}")
    if len(given) == 2:
        raise ValueError("threshold= and threshold_p= say the same: give one of them")
    if statistic == "max":
        if adjacency is not None:
            raise ValueError("adjacency= is for statistic='cluster' and 'tfce': 'max' takes each response by itself")
        return Largest()
    if adjacency is None:
        raise ValueError(
            f"statistic={statistic!r} needs adjacency=, the neighbours among the {size} responses: a sparse matrix, "
            "pairs, grid_adjacency(shape) or adjacency_of(time=..., channel=...)"
        )
    neighbours = as_adjacency(adjacency, size, None if labels is None else labels.shape)
    if statistic == "tfce":
        return Enhanced(neighbours)
    at, p = thresholds
    if at is None:
        at = height(check_level(FORMING if p is None else p, "threshold_p", "0.01 for two-sided 1 %"), k)
    elif isinstance(at, bool) or not isinstance(at, int | float | np.number) or not 0 < at < np.inf:
        raise ValueError(f"threshold must be a positive number, a |t|, not {at!r}")
    return Mass(neighbours, float(at))


def _rows(Y: Any, model: Any, missing: str) -> np.ndarray:
    """(V, nobs), NaN where a row is missing."""
    if missing not in ("drop", "refuse"):
        raise ValueError(f"missing must be 'drop' or 'refuse', not {missing!r}")
    source = as_responses(Y, len(model.design.y))
    if source.n is None:
        raise TypeError("Y is an iterator, which can be gone through once: pass an array (V, nobs)")
    if source.varies != {"y"}:
        raise TypeError(f"Y is a {type(source).__name__}, whose lanes differ in more than y: pass an array (V, nobs)")
    blocks = [np.asarray(source.block(a, min(READ, source.n - a)).y, float) for a in range(0, source.n, READ)]
    rows = np.concatenate(blocks)
    if missing == "refuse" and np.isnan(rows).any():
        v, i = np.argwhere(np.isnan(rows))[0]
        raise DataError(f"Y has NaN, the first in response {v}, row {i}: missing='drop' leaves such rows out")
    return rows


def _weights(given: Any, rows: np.ndarray, model: Any, moves: Permutations) -> np.ndarray | None:
    """(V, nobs), zero where a row is missing; None where the model's own do.

    Raises:
        DataError: another shape, or weights that are negative, not finite or all zero in a response.
    """
    gone, own = np.isnan(rows), model.design.weights
    if given is not None:
        try:
            given = np.array(given, float)
        except (TypeError, ValueError):
            raise DataError("weights hold text or other things where numbers are due") from None
        if given.shape != rows.shape:
            raise DataError(f"weights must have a number for each of Y, {rows.shape}; got shape {given.shape}")
        wrong = ~(np.isfinite(given) & (given >= 0))
        if wrong.any():
            v, i = np.argwhere(wrong)[0]
            raise DataError(f"weights are finite and not negative, and response {v} has {given[v, i]:g} in row {i}")
        empty = np.flatnonzero(~np.any(given > 0, axis=1))
        if len(empty):
            raise DataError(f"weights of response {empty[0]} are all zero: leave such responses out")
        return np.where(gone, 0.0, given)
    moving = own is not None and moves[min(1, moves.n - 1)].index is not None  # a weight goes with its residual
    if not (gone.any() or moving):
        return None
    return np.where(gone, 0.0, 1.0 if own is None else own)


# ---------------------------------------------------------------- the null model
@dataclass(frozen=True)
class _Lanes:
    """The responses (V, nobs), and their weights, or None."""

    rows: np.ndarray
    weights: np.ndarray | None

    @property
    def missing(self) -> np.ndarray:
        """(V,) rows that a response lacks."""
        gone = np.isnan(self.rows) if self.weights is None else self.weights == 0
        return gone.sum(axis=1)


class _Null:
    """The model without the term, fitted to each response: ``usable`` (U,) those that could be, and what they leave;
    ``status`` (V,)."""

    def __init__(self, model: Any, columns: tuple[str, ...], lanes: _Lanes, options: dict[str, Any]):
        d, less = model.design, without(model, columns)
        gone = np.isnan(lanes.rows)
        rows = np.where(gone & (~gone.all(axis=1))[:, None], 0.0, lanes.rows)
        fits = fit_many(less, Rearranged(Residuals(rows, lanes.weights), [Move()]), **options)
        self.status, self.usable = fits.status, np.flatnonzero(fits.converged)
        fitted = fits.fixef[self.usable] @ less.design.X.T + (0.0 if d.offset is None else d.offset)
        own = None if lanes.weights is None else lanes.weights[self.usable]
        r = rows[self.usable] - fitted
        r = r if own is None else np.where(own > 0, r, 0.0)
        self.residuals = Residuals(r, own, d.offset, _starts(model, fits.theta[self.usable]))


def _starts(model: Any, theta: np.ndarray) -> np.ndarray:
    """(U, m) of the null fits, as to the scaled columns of the model."""
    with computing(model.device):
        arrays = model.arrays
        each: Callable[[Any], Any] = jax.vmap(lambda one: scaled_theta(one, arrays, jnp))
        return np.asarray(each(jnp.asarray(theta)))


# ---------------------------------------------------------------- the permutations
class _Run:
    """The fits of all permutations, in blocks; ``observed``: of the data as they are, a ``FitBatch`` of V."""

    def __init__(
        self, model: Any, columns: tuple[str, ...], null: _Null, moves: Permutations, score: Score, options: dict
    ):
        self.model, self.columns, self.null, self.moves = model, columns, null, moves
        self.score, self.options = score, options
        self.responses = len(null.status)

    def all(self, kept: Kept | None, tick: Any) -> tuple[Tally, dict[str, np.ndarray]]:
        """The tally, and what was observed."""
        held = None if kept is None else kept.read()
        n, U = self.moves.n, len(self.null.usable)
        if held is None:
            tally, observed = None, {}
        else:
            observed = {name[1:]: x for name, x in held.items() if name.startswith("_")}
            tally = Tally.of_arrays({name: x for name, x in held.items() if not name.startswith("_")})
            tick(tally.done * U)
        if not U:
            return self._nothing()
        blocks = max(1, round(n * U / costs.PERMUTED_AT_ONCE))
        size = max(1, -(-n // blocks))
        first = 0 if tally is None else tally.done
        while first < n:
            count = min(size, n - first)
            maps, fits = self._block(first, count)
            if tally is None:
                observed = self._observed(fits)
                tally = Tally.begin(maps[0], self.score, n)
                maps = maps[1:]
            tally.add(maps, self.score)
            first += count
            tick(count * U)
            if kept is not None:
                kept.write({**tally.arrays(), **{f"_{name}": x for name, x in observed.items()}})
        assert tally is not None
        return tally, observed

    def _block(self, first: int, count: int) -> tuple[np.ndarray, FitBatch]:
        """t (count, V) of some permutations, and their fits."""
        moves = [self.moves[k] for k in range(first, first + count)]
        fits = fit_many(self.model, Rearranged(self.null.residuals, moves), **self.options)
        maps = np.full((count, self.responses), np.nan)
        maps[:, self.null.usable] = wald(fits, self.columns)[2].reshape(count, -1)
        return maps, fits

    def _observed(self, fits: FitBatch) -> dict[str, np.ndarray]:
        """Estimates and standard errors (V, k) and the status (V,)."""
        U = len(self.null.usable)
        own = fits.take(slice(0, U))
        estimate, se, _ = wald(own, self.columns)
        status = np.array(self.null.status)
        status[self.null.usable] = own.status
        whole = {name: np.full((self.responses, len(self.columns)), np.nan) for name in ("estimate", "se")}
        whole["estimate"][self.null.usable], whole["se"][self.null.usable] = estimate, se
        return {**whole, "status": status}

    def _nothing(self) -> tuple[Tally, dict[str, np.ndarray]]:
        """Raises DataError: no response can be fitted."""
        worst = Status(int(np.bincount(self.null.status).argmax()))
        raise DataError(f"none of the {self.responses} responses can be fitted: {worst.message}")

    def notes(self, tally: Tally) -> tuple[str, ...]:
        """Sentences for the reader."""
        notes = []
        lost = self.responses - int(np.sum(~np.isnan(tally.t)))
        if lost:
            notes.append(f"{lost} of {self.responses} responses could not be fitted, and are not in the family")
        failed = tally.failed
        if failed:
            share = failed / (tally.done * max(1, self.responses - lost))
            notes.append(
                f"{failed:,} fits of permuted responses failed ({share:.2%}): they are left out of the maximum of theirs"
            )
        return tuple(notes)
