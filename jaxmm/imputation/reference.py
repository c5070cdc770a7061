"""impute_reference: the fit of a trial -> completed data sets, by a rule for those who left.

    parameters of data set k     those of the fit to a response drawn from the fit: a parametric bootstrap
    missing visits of it         from the rule's normal distribution, given the visits of the subject that were seen

A refit's β̂ and covariance vary about the fit's as these do about the truth, to first order as a draw from their
posterior does, so that imputations are proper (Rubin 1987, ch. 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm._context import computing
from jaxmm._keywords import known_keywords
from jaxmm._random import apart_key, normals_of, replicate_words
from jaxmm.batch.engine import fit_many
from jaxmm.fitted import Fitted
from jaxmm.imputation.imputed import Imputed
from jaxmm.imputation.rules import RULES
from jaxmm.imputation.visits import read_visits
from jaxmm.results.result import FitBatch
from jaxmm.sources.draw import Simulated, check_n
from jaxmm.studies.designs import as_pandas

ROUNDS = 5  # of refits, where some did not converge
_HINTS = {
    "m": "the number of imputations is n=",
    "seed": "key=seed",
    "strategy": "method=",
    "ref": "reference=",
    "delta": "impute_reference(...).shift(delta)",
    "group": "arm=",
}


@known_keywords(_HINTS)
def impute_reference(
    fit: Fitted,
    data: Any,
    *,
    arm: str,
    reference: Any,
    n: int,
    key: Any,
    method: str = "j2r",
    progress: bool = True,
) -> Imputed:
    """Complete the data of a trial: what subjects would have had after they left, by what is assumed of them.

        found = impute_reference(mmrm, data, arm="arm", reference="control", method="j2r", n=100, key=1)
        pool(fit_many(model, found.Y, keep="vcov"), model=model)

    Args:
        fit: of a linear model with ``residual=``, as ``us(visit | subject)``, and no random effects.
        data: the table of the fit with a row for each visit of each subject, and a missing response where nothing was
            seen; explanatory variables must all be there.
        arm: the column of the arms, which the formula has.
        reference: its value in the reference arm.
        n: data sets.
        key: a seed, such as 1, or a key, such as ``jax.random.key(1)``; data set k depends on it and on k alone.
        method: what is assumed of who left, after the last visit that was seen: "mar", as those of the own arm who
            stayed; "j2r", jump to reference: the means of the reference arm from then on; "cir", copy increments in
            reference: its changes from then on; "cr", copy reference: as if always in that arm. In the reference arm
            all are "mar". Visits missed between others are imputed as those of the own arm, but by "cr".
        progress: whether a bar is shown.

    Returns:
        ``Imputed``: ``Y``, ``shift(delta)`` for tipping points; iterate over it for tables.

    The parameters of each data set are those of the fit to a response drawn from ``fit``, a parametric bootstrap: in
    the place of draws from their posterior. Rubin's rules on what is imputed by another rule than "mar" give standard
    errors that are too large for the estimate over repeated trials, and lose information as dropout would at random
    (Cro, Carpenter & Kenward 2019, J. R. Stat. Soc. A 182, 623-645).

    Raises:
        TypeError: no fit, no key.
        ValueError: an unknown method; a model that is not of repeated measures; refits that do not converge.
        DataError: a table that lacks rows, or is not that of the fit.

    Carpenter, Roger & Kenward (2013), J. Biopharm. Stat. 23, 1352-1371.

    Example:
        >>> data = mm.datasets.load("sleepstudy").query("Days < 3")
        >>> data["arm"] = np.where(data["Subject"].astype(int) % 2 == 0, "a", "b")
        >>> data.iloc[[5, 8], 0] = np.nan
        >>> mmrm = mm.lmm("Reaction ~ arm * factor(Days)", data, residual="homcs(Days | Subject)")
        >>> mm.impute_reference(mmrm, data, arm="arm", reference="a", method="cir", n=4, key=1, progress=False)
        4 imputations of Reaction: copy increments in reference, reference 'a'
        2 of 54 rows are imputed (1 of a, 1 of b), 2 of them after the last visit seen
    """
    if not isinstance(fit, Fitted):
        raise TypeError(f"impute_reference takes a fit, as from lmm(), not {type(fit).__name__}")
    if method not in RULES:
        raise ValueError(f"method must be one of {', '.join(map(repr, RULES))}, not {method!r}")
    n = check_n(n)
    table = data if isinstance(data, pd.DataFrame) else as_pandas(data)
    visits = read_visits(fit, table, arm, reference)
    drawn = _parameters(fit, n, key, progress)
    with computing(fit.model.device):
        words, _ = replicate_words(apart_key(key, "imputation"), 0, n)
        z = np.asarray(normals_of(words, len(visits.y)))
    c = {name: np.asarray(drawn.columns[name]) for name in ("fixef", "theta", "sigma")}
    Y = [visits.complete(c["fixef"][k], c["theta"][k], float(c["sigma"][k]), method, z[k]) for k in range(n)]
    response, arms = fit.model.design.response.strip("`"), table[arm].to_numpy()
    return Imputed(np.stack(Y), table, response, visits.missing, visits.after, arms, reference, method, drawn)


def _parameters(fit: Fitted, n: int, key: Any, progress: bool) -> FitBatch:
    """Of n responses drawn from the fit that were fitted; others are drawn for those that did not converge.

    Raises:
        ValueError: hardly one does.
    """
    source = Simulated(fit.model, fit, n, apart_key(key, "parameters 0"))
    batch = fit_many(fit.model, source, start=fit, progress=progress)
    for attempt in range(1, ROUNDS):
        failed = np.flatnonzero(~np.asarray(batch.converged))
        if not len(failed):
            return batch
        source = Simulated(fit.model, fit, n, apart_key(key, f"parameters {attempt}"))
        y = np.stack([np.asarray(source.block(int(k), 1).y)[0] for k in failed])
        again = fit_many(fit.model, y, start=fit, progress=progress)
        batch = batch.with_columns(**{name: _put(x, failed, again.columns[name]) for name, x in batch.columns.items()})
    lacking = int(np.sum(~np.asarray(batch.converged)))
    if not lacking:
        return batch
    raise ValueError(
        f"of {n} refits to responses drawn from the fit {lacking} did not converge, {ROUNDS} times over: the data tell "
        "too little of this covariance; fit one with fewer parameters"
    )


def _put(x: np.ndarray, at: np.ndarray, new: np.ndarray) -> np.ndarray:
    out = np.array(x)
    out[at] = new
    return out
