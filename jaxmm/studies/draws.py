"""A bootstrap -> its replicates as draws for ArviZ, with the names of the parameters as coordinates.

They are draws of the estimators, not from a posterior; ArviZ calls the group of what it summarises and plots so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.results.exports import DIMENSIONS

# columns of a batch that are draws
_COLUMNS = ("fixef", "varcorr_sd", "varcorr_corr", "sigma", "dispersion", "family_params", "further")


def to_arviz(boot: Any) -> Any:
    """See ``Bootstrap.to_arviz``."""
    try:
        import arviz  # pyright: ignore[reportMissingImports]
        import xarray
    except ImportError as error:
        raise ImportError("to_arviz needs arviz: pip install 'jaxmm[arviz]'") from error
    kept = np.flatnonzero(boot.converged)
    draws = {"chain": [0], "draw": np.asarray(boot.replicate)[kept]}
    data, coords = _statistic(boot) if boot.statistic is not None else _parameters(boot)
    attrs = {
        "inference_library": "jaxmm",
        "sampling": f"{boot.kind} bootstrap: draws of the estimators, not from a posterior",
        "failed": boot.failed,
    }
    group = xarray.Dataset(
        {name: (("chain", "draw", *dims), x[kept][None]) for name, (dims, x) in data.items()}, draws | coords, attrs
    )
    design = boot.fit.model.design
    observed = xarray.Dataset({design.response: (("row",), np.asarray(design.observed, float))})
    groups = {"posterior": group, "observed_data": observed}
    if hasattr(arviz, "InferenceData"):  # before 1.0
        return arviz.InferenceData(**groups)  # pyright: ignore
    return xarray.DataTree.from_dict(groups)


def _parameters(boot: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name -> (dimensions, (n, ..)) and coordinates, of the columns that the model has."""
    labels, used = boot.names.columns(), boot.estimates()
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for name in _COLUMNS:
        dim = DIMENSIONS.get(name)
        if dim is None and name in used:
            data[name] = ((), boot.columns[name])
        elif dim is not None and labels[name]:
            data[name], coords[dim] = ((dim,), boot.columns[name]), labels[name]
    return data, coords


def _statistic(boot: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The statistic that was asked for."""
    table = boot.statistics
    return {"statistic": (("name",), table.to_numpy())}, {"name": [str(c) for c in table.columns]}
