"""The confidence intervals of β that a fit has, by the name of the method."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.studies.bootstrap import bootstrap

REPLICATES = 1999  # of a bootstrap interval: the bounds of any usual level are then among them


def confint(fit: Fitted, method: str, level: float, key: Any, n: int | None) -> pd.DataFrame:
    """Confidence intervals of β of a fit: ``lower`` and ``upper``, indexed as ``fixef``.

    Args:
        method: "wald", by t with the degrees of freedom of ``coef_table()``; or "bootstrap", the percentiles of ``n``
            parametric replicates (1,999 by default) drawn with ``key``: ``bootstrap`` has the other kinds, intervals
            and parameters. "profile" is not available yet.

    Raises:
        ValueError: another method, a level outside (0, 1), or what the method has no use of.
        TypeError: a bootstrap without a key.
    """
    wald.check_level(level)
    if method not in METHODS:
        raise ValueError(f"method must be 'wald', 'profile' or 'bootstrap', not {method!r}")
    return METHODS[method](fit, level, key, n)


def _wald(fit: Fitted, level: float, key: Any, n: int | None) -> pd.DataFrame:
    if key is not None or n is not None:
        raise ValueError("key= and n= are for method='bootstrap': a Wald interval draws nothing")
    lower, upper = wald.interval(fit.fixef, fit.bse, level, fit.coef_table()["df"])
    return pd.DataFrame({"lower": lower, "upper": upper})


def _profile(fit: Fitted, level: float, key: Any, n: int | None) -> pd.DataFrame:
    raise NotImplementedError("confint(method='profile') is not available yet: use 'wald' or 'bootstrap'")


def _bootstrap(fit: Fitted, level: float, key: Any, n: int | None) -> pd.DataFrame:
    if key is None:
        raise TypeError("confint(method='bootstrap') needs a key, such as key=jax.random.key(0)")
    found = bootstrap(fit, REPLICATES if n is None else n, key=key, progress=False)
    return found.confint("percentile", level, parm=list(fit.fixef.index))


METHODS = {"wald": _wald, "profile": _profile, "bootstrap": _bootstrap}
