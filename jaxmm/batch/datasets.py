"""fit_many(datasets, formula=): what was given, looked at -> the job (``dataset_job``), and its folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from jaxmm import costs
from jaxmm._text import some
from jaxmm._warn import warn
from jaxmm.batch.dataset_job import Datasets, Single
from jaxmm.batch.progress import progress_bar
from jaxmm.design.formula import parse
from jaxmm.design.stacked import stacker
from jaxmm.design.stacked_arrays import array_stacker
from jaxmm.kinds import choose_likelihood
from jaxmm.optimize import Control
from jaxmm.results.ahead import check_room, computed_and_read, examine
from jaxmm.results.kept import as_keep
from jaxmm.results.result import FitBatch, concatenate, no_fits
from jaxmm.results.shards import Shard, at_work, recorded
from jaxmm.results.store import Store
from jaxmm.sources.responses import fingerprint

LOOKED_AT = 64  # data sets


def are_datasets(given: Any, formula: str | None, Y: Any) -> bool:
    """Whether the first argument of ``fit_many`` is data sets, not a model of responses Y."""
    if formula is not None:
        if hasattr(getattr(given, "model", given), "likelihood"):
            raise TypeError("formula= is for data sets, fit_many(datasets, formula=...): a model has its own")
        return True
    return Y is None and isinstance(given, list | tuple | Iterator)


def check_absent(arguments: Mapping[str, Any], reason: str) -> None:
    """Raises TypeError for the first that is given."""
    for name, value in arguments.items():
        if value is not None:
            raise TypeError(f"{name}= {reason}")


def fit_datasets(
    datasets: Any,
    formula: str | None,
    *,
    family: Any,
    reml: bool | None,
    n_agq: Any,
    contrasts: Any,
    names: Any,
    weights: Any,
    offset: Any,
    batch: int | None,
    out: Any,
    progress: bool,
    control: Control,
    collect: bool,
    keep: Any,
) -> FitBatch:
    """See ``engine.fit_many``."""
    likelihood = choose_likelihood(family, reml, n_agq)
    n = len(datasets) if hasattr(datasets, "__len__") else None
    given, datasets = datasets, checked(datasets, formula)
    first = list(islice(datasets, costs.DATASETS_STACKED))
    if not first:
        raise ValueError("there are no data sets: there is nothing to fit")
    of = None if family is None else likelihood.family
    for name, value in (("weights", weights), ("offset", offset)):
        if value is not None and (formula is None or not isinstance(value, str)):
            raise TypeError(f"{name} of data sets is the name of a column of each table, not {type(value).__name__}")
    if formula is None:
        if contrasts is not None:
            raise TypeError("contrasts= is for a formula: data sets of arrays have their columns as they are")
        read: Any = array_stacker(first, names, of)
    else:
        if names is not None:
            raise TypeError("names= is for data sets of arrays: a formula has its own")
        terms = parse(formula)
        further = {p.name: None for p in likelihood.family.further} if of is not None else None
        read = stacker(terms, first, further, of, weights, offset, contrasts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Single(read.design, likelihood, device=control.device)
    if read.design.dropped:
        warn(
            f"the fixed effects are rank-deficient: dropped {some(read.design.dropped)} in all data sets, a "
            "combination of the columns before"
        )
    if formula is not None:
        _warn_of_aliased(read, first)
    job = Datasets(read, model, n, batch, control, as_keep(model, keep), out is not None)
    if job.keep and not job.in_lanes:
        raise ValueError(
            "keep= is for data sets that are fitted as lanes: linear models of one grouping factor with few effects"
        )
    every = chain(first, datasets)
    if out is None:
        parts: list[FitBatch] = []
        with progress_bar(progress, n) as tick:
            job.run(every, parts.append, tick)
        return concatenate([no_fits(job.names), *parts])
    if n is None:
        raise ValueError(
            "out= needs data sets that can be counted, so that a run can go on where it stopped: give a list, or any "
            "object with a length that gives the same data sets again"
        )
    identity, passes = _identity(job, first), chain([every], (checked(given, formula) for _ in repeat(None)))
    return computed_and_read(
        lambda: _stored(job, next(passes), identity, out, progress),
        lambda store: store.read(n) if collect else no_fits(job.names),
    )


def _warn_of_aliased(read: Any, tables: list[Any]) -> None:
    """Where most of the first data sets lack a level that gives the others their meaning."""
    matrices = (read.design.spec.matrix, *read.design.spec.bars)
    if all(v.labels is None for m in matrices for v in m.variables):
        return
    which = np.unique(np.linspace(0, len(tables) - 1, LOOKED_AT).astype(int))
    aliased = int(read.rows([tables[k] for k in which], 0).aliased.sum())
    if 2 * aliased > len(which):
        warn(
            f"{aliased} of {len(which)} data sets that were looked at lack a level of a factor with which the others "
            "are compared, and are ALIASED: drop a level that few data sets have, or code the factor by contrasts "
            "'treatment'"
        )


def _identity(job: Datasets, first: list[Any]) -> dict[str, Any]:
    """What a folder belongs to, from the ``first`` data sets."""
    d, lik = job.model.design, job.model.likelihood
    which = np.unique(np.linspace(0, len(first) - 1, 64).astype(int))
    rows = job.stacker.rows([first[k] for k in which], 0)
    told = [x for x in (rows.y, rows.X, *rows.Z, rows.weights, rows.offset, rows.trials, rows.level) if x is not None]
    return {
        "formula": d.formula,
        "likelihood": lik.kind,
        "family": f"{lik.family!r}",
        "columns": list(d.columns),
        "source": {"responses": "data sets", "some": fingerprint(*told)},
        "tolerance": job.control.tolerance,
        "max_iterations": job.control.max_iterations,
        **({"keep": list(job.keep)} if job.keep else {}),
        "n": job.n,
    }


def _stored(job: Datasets, every: Iterator[Any], identity: dict[str, Any], out: Any, progress: bool) -> Store:
    """Fits what the folder lacks of ``every`` data set."""
    n: Any = job.n
    store, shard = Store(out, identity), Shard.of(None)
    with at_work(store.folder, shard):
        examine(store, job.names)
        missing = store.missing(n, job.block)
        if missing:
            check_room(store.folder, job.names, sum(size for _, size in missing))
        noted = recorded(store.folder, shard) if missing else nullcontext()
        blocks = {first - first % job.block for first, _ in missing}

        def write(batch: FitBatch) -> None:
            store.write(batch, int(batch.replicate[0]), int(batch.replicate[-1]) + 1)

        with noted, progress_bar(progress, n) as tick:
            count = job.run(every, write, tick, blocks)
        if count != n:
            raise ValueError(f"the data sets said that they are {n}, and gave {count}")
    return store


def checked(datasets: Any, formula: str | None) -> Iterator[Any]:
    """The data sets one by one, of one kind all.

    Raises:
        TypeError: what is no iterable of data sets; tables of several kinds; arrays with a formula, tables without one.
    """
    if (
        isinstance(datasets, str | bytes | Mapping)
        or hasattr(datasets, "columns")
        or not isinstance(datasets, Iterable)
    ):
        raise TypeError(
            f"datasets is a {type(datasets).__name__}: give a list of tables or a generator that yields them; one "
            "table with many data sets in it is [part for _, part in table.groupby(...)]"
        )
    return _checked(datasets, formula)


def _checked(datasets: Iterable[Any], formula: str | None) -> Iterator[Any]:
    first: str | None = None
    for k, data in enumerate(datasets):
        kind = _kind(data, k)
        if kind != (first := first or kind):
            raise TypeError(f"data set {k} is {kind}, and data set 0 {first}: give all of one kind")
        if kind == ARRAYS and formula is not None:
            raise TypeError("data sets of arrays (y, X, Z, codes) have no names for a formula: leave formula= out")
        if kind != ARRAYS and formula is None:
            raise TypeError("data sets that are tables need formula=, such as formula='y ~ x + (x | g)'")
        yield data


ARRAYS = "arrays (y, X, Z, codes)"


def _kind(data: Any, k: int) -> str:
    if isinstance(data, tuple | list):
        if len(data) != 4:
            raise TypeError(f"data set {k} is a {type(data).__name__} of {len(data)}: arrays are (y, X, Z, codes)")
        return ARRAYS
    if isinstance(data, Mapping):
        return "a mapping"
    if not hasattr(data, "columns"):
        raise TypeError(f"data set {k} is a {type(data).__name__}: give a table, a mapping of columns, or {ARRAYS}")
    return f"a {type(data).__module__.split('.')[0]} {type(data).__name__}"
