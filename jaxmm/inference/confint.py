"""The confidence intervals that a fit has of its parameters, by the name of the method.

wald         β̂ ± q se                          the coefficients; q of the normal distribution, or of a t with ddf=
profile      where the likelihood falls to     any parameter; ``profile``
bootstrap    percentiles of replicates         any parameter; ``studies.bootstrap``
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.inference.profile import intervals
from jaxmm.inference.quantities import chosen
from jaxmm.studies.bootstrap import bootstrap

REPLICATES = 1999  # of a bootstrap interval: the bounds of any usual level are then among them


def confint(fit: Fitted, method: str, level: float, parm: Any, **options: Any) -> pd.DataFrame:
    """Confidence intervals: ``lower`` and ``upper``, a row for each parameter.

    Args:
        method: "wald", by t with the errors and degrees of freedom of ``coef_table``; "profile", by maximum likelihood
            (``attrs["notes"]`` says what there is to know); or "bootstrap" ("boot"), the percentiles of ``n``
            parametric replicates (1,999 by default) drawn with ``key``: ``Fit.bootstrap`` has the other kinds.
        parm: names, as ``quantities.chosen`` has them; by default the coefficients of the mean, as ``fixef``; of
            none the frame has no rows.
        options: ``ddf`` ("asymptotic" is the normal distribution, as in lme4), ``vcov`` and ``cluster`` of "wald", as
            ``coef_table`` takes them; ``key`` and ``n`` of "bootstrap".  None is an option that was not given.

    Raises:
        ValueError: another method, a level outside (0, 1), or what the method has no use of.
        ValueError: a parameter that there is not.
        TypeError: a bootstrap without a key.
    """
    wald.check_level(level)
    if method not in METHODS:
        raise ValueError(f"method must be 'wald', 'profile' or 'bootstrap', not {method!r}")
    of, takes = METHODS[method]
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - set(takes):
        (owner,) = {own for own, (_, accepted) in METHODS.items() if name in accepted and own != "boot"}
        raise ValueError(f"{name}= is for method={owner!r}: method={method!r} has no use of it")
    return of(fit, level, parm, **given)


def _wald(fit: Fitted, level: float, parm: Any, **options: Any) -> pd.DataFrame:
    table = fit.coef_table(component="all", **options)
    names = list(table.index) if isinstance(parm, str) and parm == "all" else chosen(fit, parm, list(fit.fixef.index))
    for name in names:
        if name not in table.index:
            raise ValueError(f"Wald intervals are of coefficients: for {name!r} use method='profile' or 'bootstrap'")
    rows = table.loc[names]
    lower, upper = wald.interval(rows["estimate"], rows["se"], level, np.asarray(rows["df"]))
    return pd.DataFrame({"lower": lower, "upper": upper})


def _profile(fit: Fitted, level: float, parm: Any) -> pd.DataFrame:
    return intervals(fit, parm, level)


def _bootstrap(fit: Fitted, level: float, parm: Any, key: Any = None, n: int = REPLICATES) -> pd.DataFrame:
    names = chosen(fit, parm, list(fit.fixef.index))
    if key is None:
        raise TypeError("confint(method='bootstrap') needs a key, such as key=1 or key=jax.random.key(1)")
    if not names:
        return pd.DataFrame({"lower": [], "upper": []}, names, dtype=float)
    return bootstrap(fit, n, key=key, progress=False).confint("percentile", level, parm=names)


METHODS = {
    "wald": (_wald, ("ddf", "vcov", "cluster")),
    "profile": (_profile, ()),
    "bootstrap": (_bootstrap, ("key", "n")),
    "boot": (_bootstrap, ("key", "n")),
}
