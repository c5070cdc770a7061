"""permutation_test: many responses of one design -> p-values of a term that hold for all of them together.

    null model     fitted once to each response, without the term's columns: its marginal residuals r
    permutation    r rearranged by a scheme, the same for all responses, and the full model fitted to what comes of it
    statistic      t or F of the term in each fit, a score per response, the largest of which counts

Everything but the fits (``batch.engine``) is small: the permutations go through in blocks, of which a maximum each and
counts are kept (``tally``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from jaxmm._keywords import known_keywords
from jaxmm._random import as_key, words
from jaxmm.errors import check_sigma
from jaxmm.permute.inputs import as_lanes, as_scheme, as_score, check_number, read_rows, tested_columns
from jaxmm.permute.result import PermutationResult
from jaxmm.permute.run import Run, remarks
from jaxmm.permute.schemes import Permutations
from jaxmm.permute.tally import Kept
from jaxmm.results.store import as_folder
from jaxmm.sources import labelled
from jaxmm.sources.direct import design_of
from jaxmm.sources.responses import fingerprint, unfitted

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
    them, are rearranged as the random effects allow, the same way in all responses, and the full model is fitted to
    what comes of it (Freedman & Lane 1983; Winkler et al. 2014, NeuroImage 92, 381-397). Every fit is a search for the
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
        weights: (V, nobs) precisions of each response, in the place of the model's; a row of weight zero is missing. A
            table is matched by label as Y is.
        missing: "drop", a NaN in Y leaves that row out of that response; "refuse", it is an error.
        batch: lanes that are searched at once, as in ``fit_many``.
        out: a folder in which the counts are kept after each block of permutations: a run that was cut off goes on, and
            one of a larger ``n`` continues a shorter one; one of a smaller ``n`` than is there is refused.
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
        TypeError: a term that is no name.
        RuntimeError: another test is at work on the folder.
        OSError: the folder takes no files.
        DataError: responses of another length; NaN with ``missing="refuse"``.

    The same key gives the same p whatever ``batch`` and the number of cores: t of another batch differs by rounding,
    about 1e-14 of itself, and what is within 1e-6 of the observed counts as reaching it. Random slopes of the term
    itself ask for "sign" or "wild": rows of one group then differ in their variances, whitening by which would depend
    on them.

    Example:
        >>> Y = fit.simulate(5, key=1)
        >>> mm.permutation_test(fit, Y, "Days", key=1, n=20, progress=False).frame["p_fwe"].tolist()
        [0.05, 0.05, 0.1, 0.05, 0.05]
    """
    model = unfitted(model)
    check_sigma(model, "a permutation test")
    columns = tested_columns(model, term)
    moves = Permutations(as_scheme(model, columns, scheme), check_number(n), words(as_key(key)))
    Y, labels, moved = labelled.read(Y, model.design, dim, layer)
    if weights is not None:
        weights = labelled.read_beside(weights, model.design, "weights", moved).Y
    rows = read_rows(Y, model, missing)
    score = as_score(statistic, adjacency, (threshold, threshold_p), len(rows), labels, len(columns))
    if step_down and statistic != "max":
        raise ValueError(f"step_down=True is for statistic='max': {statistic!r} has no scores of single responses")
    lanes = as_lanes(weights, rows, model, moves)
    kept = None
    if out is not None:
        identity = {
            "formula": model.design.formula,
            "design": design_of(model, model.design.offset),
            "responses": fingerprint(rows, *(() if lanes.weights is None else (lanes.weights,))),
            "term": list(columns),
            "scheme": scheme,
            "key": [int(x) for x in words(as_key(key))],
            "complete": moves.complete,
            "reml": bool(model.reml),
            **score.identity(),
        }
        kept = Kept(as_folder(out), identity)
    run = Run(model, columns, lanes, moves, score, {"batch": batch, "control": control, "progress": False})
    with nullcontext() if kept is None else kept.at_work():
        tally = run.all(kept, progress)
    return PermutationResult(
        formula=model.design.formula,
        columns=columns,
        scheme=scheme,
        statistic=score,
        complete=moves.complete,
        step_down=step_down,
        tally=tally,
        missing=lanes.missing,
        labels=labels,
        notes=(*moves.scheme.notes, *remarks(tally)),
    )
