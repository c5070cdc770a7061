"""A batch with the labels of its responses -> the objects that these came from, with the results in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxmm.results.schema import Column, schema
from jaxmm.sources.labelled import Labels

if TYPE_CHECKING:
    import xarray

# what the second dimension of a column is called that holds several numbers of a replicate
DIMENSIONS = {
    "fixef": "coef",
    "bse": "coef",
    "df": "coef",
    "fixef_cov": "coef_pair",
    "theta": "parameter",
    "varcorr_sd": "sd",
    "varcorr_corr": "corr",
    "family_params": "family_param",
    "further": "further_coef",
    "further_bse": "further_coef",
}


def to_xarray(batch: Any) -> xarray.Dataset:
    """See ``FitBatch.to_xarray``."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError("to_xarray needs xarray: pip install 'jaxmm[xarray]'") from error
    labels = batch.labels or Labels.of("replicate", batch.replicate)
    columns = {n: c for n, c in schema(batch.names).items() if n != "replicate" and c.labels != ()}
    seconds = {DIMENSIONS.get(n, f"{n}_"): list(c.labels) for n, c in columns.items() if c.labels is not None}
    taken = {*labels.shape, *labels.coords}
    if clash := sorted(taken & {*columns, *seconds}):
        raise ValueError(f"the responses have a dimension or coordinate {clash[0]!r}, as the results have: rename it")
    data = {}
    for name, column in columns.items():
        dims = (*labels.shape, *(() if column.labels is None else (DIMENSIONS.get(name, f"{name}_"),)))
        data[name] = (dims, _on_grid(batch.columns[name], column, labels))
    return xarray.Dataset(data, {**labels.coords, **seconds})


def _on_grid(x: np.ndarray, column: Column, labels: Labels) -> np.ndarray:
    """(n, ..) as (d1, d2, .., ..): NaN where a cell of the grid has no replicate."""
    size = tuple(labels.shape.values())
    cells = int(np.prod(size))
    whole = len(np.unique(labels.place)) == cells
    out = np.full((cells, *x.shape[1:]), np.nan if not whole else 0, column.kind if whole else np.float64)
    out[labels.place] = x
    return out.reshape(*size, *x.shape[1:])


def annotate(batch: Any, tests: pd.DataFrame, adata: Any, prefix: str) -> Any:
    """See ``FitBatch.annotate``; ``tests`` are those of all coefficients."""
    if batch.labels is None or len(batch.labels.shape) != 1:
        raise ValueError("the batch has no names of variables: fit_many(model, adata) gives them")
    ((name, own),) = batch.labels.columns().items()
    table = batch.to_frame().drop(columns=[name, "replicate"])
    for coef, own_tests in tests.groupby("coef", sort=False):
        for column in ("se", "df", "z", "t", "p", "p_adjusted"):
            if column in own_tests:
                table[f"{column}_{coef}"] = own_tests[column].to_numpy()
    table.index = pd.Index(own)
    names = pd.Index(adata.var_names)
    if not (names.is_unique and table.index.is_unique) or not table.index.isin(names).all():
        raise ValueError("the variables of adata are not those that were fitted, or their names are not unique")
    for column in table:
        adata.var[f"{prefix}{column}"] = table[column].reindex(names).to_numpy()
    if "fixef_cov" in batch.columns:
        packed = pd.DataFrame(batch.fixef_cov, table.index)
        adata.varm[f"{prefix}fixef_cov"] = packed.reindex(names).to_numpy()
    return adata
