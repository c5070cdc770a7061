"""Tables that a study is planned on: from a description, or from a table or model that there is.

    make_design({"subject": 30, "item": 20}, ...)   description -> table, one row per observation, without a response
    plan("rt ~ cond + (cond | subject)", table)     formula + such a table -> Model

``extending`` makes tables and models with more levels of a factor from those that there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._keywords import unknown_keyword
from jaxmm.design.columns import DataError
from jaxmm.design.formula import parse
from jaxmm.design.syntax import names as syntax_names
from jaxmm.model import Model, choose_likelihood
from jaxmm.studies.named_designs import design_by_name

HINTS = {"units": "the numbers come first, make_design({'subject': 30})", "n": "repeats="}


# ---------------------------------------------------------------- a table from a description
def make_design(
    levels: Mapping[str, int] | str,
    *,
    within: Mapping[str, Sequence[Any]] | None = None,
    counterbalance: bool | Sequence[str] = False,
    between: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    repeats: int = 1,
    covariates: Mapping[str, Any] | None = None,
    seed: int | None = None,
    **sizes: Any,
) -> pd.DataFrame:
    """The table of a planned study: a row per observation, a column per factor, condition and covariate.

        make_design("stepped wedge", clusters=12, periods=5, size=20)

        make_design({"subject": 30, "item": 20}, within={"cond": ["a", "b"]}, counterbalance=True)
        make_design({"school": 10, "school/class": 5}, repeats=20, between={"class": {"book": ["old", "new"]}})
        make_design({"patient": 60}, within={"week": [0, 1, 2, 4]}, between={"patient": {"arm": ["placebo", "drug"]}})

    Args:
        levels: the name of a design, with its ``sizes``; or factor -> number of levels. Factors are crossed: each level
            of one occurs with each of the others. "a/b" is b nested in a, so many levels in each level of a, with names
            that are used once.
        within: condition -> its values, numbers or texts. Every cell (combination of the factors' levels) has each of
            them, as rows.
        counterbalance: True or the names of some conditions of ``within``: of these each cell has one combination, by a
            Latin square over the (crossed) factors. Each level of one factor then has all combinations equally often,
            where the number of levels of the other factors (in each group of ``between``) is a multiple of theirs.
        between: factor -> condition -> its values; each level of the factor has one, in turn. Several conditions of one
            factor are crossed.
        repeats: rows of each cell and condition, numbered in the column "repeat" if there are more than one.
        covariates: column -> (factor, draw) for a value per level of the factor, or draw for one per row;
            ``draw(rng, n)`` returns n values. Each column has a generator of its own, made from ``seed`` and its name.
        seed: of the covariates.
        sizes: of a design by name, which takes nothing else:

            - "parallel": ``patients``, ``visits``, ``arms``; for ``y ~ arm * visit + (1 | patient)``
            - "crossover": ``patients``, ``sequences``, ``rows``; ``y ~ treatment + period + (1 | patient)``
            - "cluster-randomised": ``clusters``, ``size``, ``arms``; ``y ~ arm + (1 | cluster)``
            - "stepped wedge": ``clusters``, ``periods``, ``size``, ``sequences``;
              ``y ~ treated + period + (1 | cluster)``
            - "longitudinal": ``patients``, ``visits``; ``y ~ visit + (visit | patient)``
            - "subjects × items": ``subjects``, ``items``, ``conditions``, ``counterbalanced``;
              ``y ~ condition + (condition | subject) + (condition | item)``

    Returns:
        A pandas table. Factors and text conditions are categorical in the order given, so that the first value is the
        reference; conditions given as numbers stay numbers.

    Raises:
        DataError: an unknown factor, a size below one, a name used twice; a draw of the wrong length.
        ValueError: an unknown design.
        TypeError: a keyword that the design has not, or one that it lacks.

    Example:
        >>> mm.make_design("stepped wedge", clusters=12, periods=5, size=20).shape
        (1200, 4)
        >>> mm.make_design({"subject": 4, "item": 2}, within={"cond": ["a", "b"]}, counterbalance=True).shape
        (8, 3)
    """
    if isinstance(levels, str):
        general = {"within": within, "between": between, "covariates": covariates, "seed": seed}
        given = {name: x for name, x in general.items() if x is not None}
        given |= {"counterbalance": counterbalance} if counterbalance else {}
        return design_by_name(levels, sizes | given | ({"repeats": repeats} if repeats != 1 else {}))
    if sizes:
        raise unknown_keyword("make_design", next(iter(sizes)), make_design, HINTS)
    paths = _paths(levels)
    within, between, covariates = dict(within or {}), dict(between or {}), dict(covariates or {})
    _check_names(paths, within, between, covariates, repeats)
    balanced = _balanced(counterbalance, within)
    if balanced and len([p for p in paths.values() if "/" not in p]) < 2:
        raise DataError("a Latin square needs two crossed factors: give the condition in between=, or leave it within")
    check_size("repeats", repeats)

    codes, names = _cells(paths, levels)
    group = {f: np.zeros(len(names[f]), int) for f in paths}  # of each level, by its between-conditions
    columns: dict[str, Any] = {}
    for factor, conditions in between.items():
        cells = list(product(*conditions.values()))
        group[factor] = np.arange(len(names[factor])) % len(cells)
        for k, (name, values) in enumerate(conditions.items()):
            columns[name] = _values([cells[g][k] for g in group[factor]], values).take(codes[factor])
    if balanced:
        combinations = list(product(*(within[c] for c in balanced)))
        shift = sum(rank_in_group(group[leaf])[codes[leaf]] for leaf in _leaves(paths))
        which = np.asarray(shift) % len(combinations)
        for k, name in enumerate(balanced):
            columns[name] = _values([c[k] for c in combinations], within[name]).take(which)
    table = {f: pd.Categorical.from_codes(codes[f], names[f]) for f in paths} | columns
    rows, inner = len(next(iter(codes.values()))), [c for c in within if c not in balanced]
    cells = list(product(*(within[c] for c in inner), range(1, repeats + 1)))
    row, cell = np.repeat(np.arange(rows), len(cells)), np.tile(np.arange(len(cells)), rows)
    table = {name: column.take(row) for name, column in table.items()}
    for k, name in enumerate(inner):
        table[name] = _values([c[k] for c in cells], within[name]).take(cell)
    if repeats > 1:
        table["repeat"] = np.array([c[-1] for c in cells])[cell]
    for name, what in covariates.items():
        table[name] = _covariate(name, what, seed, codes, names, row)
    return pd.DataFrame(table)


def _paths(levels: Mapping[str, int]) -> dict[str, str]:
    """Factor -> its path; outer factors stand before those nested in them."""
    if not isinstance(levels, Mapping) or not levels:
        raise DataError('levels must be factor -> number of levels, such as {"subject": 30, "item": 20}')
    paths: dict[str, str] = {}
    for path, size in levels.items():
        *outer, name = str(path).split("/")
        if outer and paths.get(outer[-1]) != "/".join(outer):
            raise DataError(f"{path!r}: give the number of levels of {'/'.join(outer)!r} before it")
        if name in paths or not name:
            raise DataError(f"levels names {name!r} twice: each factor needs its own name")
        check_size(path, size)
        paths[name] = str(path)
    return paths


def check_size(name: str, size: Any, least: int = 1) -> None:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < least:
        raise DataError(f"the size of {name!r} must be a whole number of at least {least}, not {size!r}")


def _check_names(paths: dict, within: dict, between: dict, covariates: dict, repeats: Any) -> None:
    for factor in between:
        if factor not in paths:
            raise DataError(f"between names {factor!r}, which is no factor; there are {', '.join(map(repr, paths))}")
    names = [*paths, *within, *(c for conditions in between.values() for c in conditions), *covariates]
    names += ["repeat"] if repeats != 1 else []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two columns would be called {twice!r}: each needs its own name")
    for name, values in [*within.items(), *(pair for c in between.values() for pair in c.items())]:
        if isinstance(values, str) or len(list(values)) < 2 or len(set(values)) < len(list(values)):
            raise DataError(f"the condition {name!r} needs two or more different values, not {values!r}")


def _balanced(counterbalance: bool | Sequence[str], within: dict) -> list[str]:
    if isinstance(counterbalance, bool):
        return list(within) if counterbalance else []
    wanted = [counterbalance] if isinstance(counterbalance, str) else list(counterbalance)
    for name in wanted:
        if name not in within:
            known = ", ".join(map(repr, within)) or "none"
            raise DataError(f"counterbalance names {name!r}, which is no condition of within; there are {known}")
    return wanted


def _leaves(paths: dict[str, str]) -> list[str]:
    """The innermost factors: those that no other is nested in."""
    return [f for f, path in paths.items() if not any(p.startswith(f"{path}/") for p in paths.values())]


def _cells(paths: dict[str, str], levels: Mapping[str, int]) -> tuple[dict, dict]:
    """Codes (rows,) of each factor in every cell, the last factor running fastest; names of the levels."""
    codes: dict[str, np.ndarray] = {}
    names: dict[str, list[str]] = {}
    rows = 1
    for name, path in paths.items():
        size, outer = int(levels[path]), path.split("/")[:-1]
        own = np.tile(np.arange(size), rows)
        codes = {f: np.repeat(c, size) for f, c in codes.items()}
        rows *= size
        labels = [f"{name}{k + 1:0{len(str(size))}d}" for k in range(size)]
        if outer:
            codes[name] = codes[outer[-1]] * size + own
            names[name] = [f"{above}.{label}" for above in names[outer[-1]] for label in labels]
        else:
            codes[name], names[name] = own, labels
    return codes, names


def rank_in_group(group: np.ndarray) -> np.ndarray:
    """(J,) how many levels of the same group stand before each: so that list and group are not confounded."""
    rank = np.empty(len(group), int)
    for g in np.unique(group):
        rank[group == g] = np.arange(np.sum(group == g))
    return rank


def _values(rows: Sequence[Any], values: Sequence[Any]) -> Any:
    """A column: of numbers if all values are, else categorical in the order given."""
    if all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values):
        return np.array(rows)
    return pd.Categorical(list(rows), list(values))


def _covariate(name: str, what: Any, seed: Any, codes: dict, names: dict, row: np.ndarray) -> np.ndarray:
    factor, draw = what if isinstance(what, tuple) and len(what) == 2 else (None, what)
    if not callable(draw):
        raise DataError(f"the covariate {name!r} must be draw(rng, n), or (factor, draw), not {what!r}")
    if factor is not None and factor not in codes:
        raise DataError(f"the covariate {name!r} is of {factor!r}, which is no factor; there are {', '.join(codes)}")
    if seed is None:
        raise DataError("covariates are drawn: give seed=, so that the table can be made again")
    n = len(row) if factor is None else len(names[factor])
    values = np.asarray(draw(np.random.default_rng([int(seed), zlib.crc32(name.encode())]), n))
    if values.shape != (n,):
        raise DataError(f"the covariate {name!r} has shape {values.shape} where draw(rng, {n}) should give {n} values")
    return values if factor is None else values[codes[factor][row]]


# ---------------------------------------------------------------- a model of a table without a response
def plan(formula: str, table: Any, family: Any = None, **keywords: Any) -> Model:
    """``Model.from_formula`` for a table that has no response yet: to simulate from, not to fit.

    Args:
        formula: as in ``lmm`` and ``glmm``. Where the table lacks the response, a column of values that the family
            takes stands in for it; one that it has is used. Of a binomial family, whole ``weights`` are the trials.
        table: a row for each observation, as ``make_design`` makes one.
        family: as in ``glmm``; a linear model where None.
        keywords: those of ``Model.from_formula``.

    Raises:
        FormulaError, DataError: as ``Model.from_formula``; ``fit()`` of a model whose table has no response.

    Example:
        >>> table = mm.make_design({"subject": 4}, within={"cond": ["a", "b"]}, repeats=2)
        >>> mm.plan("y ~ cond + (1 | subject)", table).reml
        True
    """
    terms = parse(formula)
    response = str(terms.response).strip("`")
    data = as_pandas(table)
    if isinstance(table, pd.DataFrame):
        data.index = table.index  # by which responses with labels are matched
    lacking = [name for name in syntax_names(terms.response) if name not in data.columns]
    stand_in = bool(lacking) and response.isidentifier()
    if lacking and not stand_in:
        raise DataError(
            f"a plan has no column {lacking[0]!r} for the response '{response}': name the response alone, as in "
            "y ~ ..., or give the table columns; trials are 'y ~ ...' with weights='n', a column of their numbers"
        )
    if stand_in:
        likelihood = choose_likelihood(family, keywords.get("reml"), keywords.get("n_agq"))
        pairs = [np.array(pair) for pair in ((0.0, 1.0), (1.0, 2.0), (0.25, 0.75))]
        pair = next((p for p in pairs if np.all(likelihood.family.valid(p))), pairs[0])
        values, trials = np.resize(pair, len(data)), _trials(likelihood.family, data, keywords.get("weights"))
        if trials is not None:  # a share of several trials says that the weights are trials
            values = np.round(0.5 * trials) / trials
        data = data.assign(**{response: values})
    model = Model.from_formula(formula, data, family, **keywords)
    return model.with_design(replace(model.design, stand_in=True)) if stand_in else model


def _trials(family: Any, data: pd.DataFrame, weights: Any) -> np.ndarray | None:
    """The numbers of trials that the weights of a plan are, of which some must be above one."""
    if not family.has_trials or weights is None:
        return None
    numbers = np.asarray(data[weights] if isinstance(weights, str) and weights in data else weights)
    whole = numbers.shape == (len(data),) and numbers.dtype.kind in "iuf" and np.all(numbers == np.round(numbers))
    return numbers.astype(float) if whole and numbers.min() > 0 and numbers.max() > 1 else None


def as_pandas(table: Any) -> pd.DataFrame:
    """Any accepted table as a pandas one, with rows numbered from 0."""
    if isinstance(table, pd.DataFrame):
        return table.reset_index(drop=True)
    if isinstance(table, Mapping):
        return pd.DataFrame(dict(table))
    import narwhals as nw

    try:
        frame = nw.from_native(table, eager_only=True)
    except TypeError:
        raise DataError(f"data must be a table or a mapping of columns, not {type(table).__name__}") from None
    return pd.DataFrame({name: frame[name].to_list() for name in frame.columns})
