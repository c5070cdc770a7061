"""family, reml and n_agq, as users give them -> the likelihood of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.families import get as get_family
from jaxmm.generalised import Generalised
from jaxmm.likelihood import Likelihood
from jaxmm.linear import Linear


def choose_likelihood(family: Any, reml: bool | None, n_agq: int | str | None) -> Likelihood:
    """Linear without a family, else generalised; a keyword of the other one is an error."""
    if family is None:
        if n_agq is not None:
            raise TypeError("n_agq is for generalised models: give a family")
        reml = True if reml is None else reml
        check_flag("reml", reml)
        return Linear(bool(reml))
    if reml is not None:
        raise TypeError("reml is for linear mixed models: leave it out, generalised models are fitted by ML")
    return Generalised(get_family(family), 1 if n_agq is None else n_agq)


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}")
