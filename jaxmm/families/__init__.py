"""The families by name; ``get`` finds one."""

from __future__ import annotations

import difflib
from dataclasses import replace

from jaxmm.families._base import Family as Family
from jaxmm.families._base import Further as Further
from jaxmm.families.beta import Beta as Beta
from jaxmm.families.betabinomial import BetaBinomial as BetaBinomial
from jaxmm.families.binomial import Binomial as Binomial
from jaxmm.families.gamma import Gamma as Gamma
from jaxmm.families.gaussian import Gaussian as Gaussian
from jaxmm.families.hurdle import Hurdle as Hurdle
from jaxmm.families.inverse_gaussian import InverseGaussian as InverseGaussian
from jaxmm.families.nbinom1 import NegativeBinomial1 as NegativeBinomial1
from jaxmm.families.nbinom2 import NegativeBinomial2 as NegativeBinomial2
from jaxmm.families.poisson import Poisson as Poisson
from jaxmm.families.student_t import StudentT as StudentT
from jaxmm.families.truncated import Truncated as Truncated
from jaxmm.families.truncated import TruncatedNegativeBinomial1 as TruncatedNegativeBinomial1
from jaxmm.families.truncated import TruncatedNegativeBinomial2 as TruncatedNegativeBinomial2
from jaxmm.families.truncated import TruncatedPoisson as TruncatedPoisson
from jaxmm.families.tweedie import Tweedie as Tweedie
from jaxmm.families.zero_inflated import ZeroInflated as ZeroInflated
from jaxmm.links import Link

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        Binomial,
        Poisson,
        Gamma,
        InverseGaussian,
        NegativeBinomial1,
        NegativeBinomial2,
        Beta,
        BetaBinomial,
        Gaussian,
        Tweedie,
        StudentT,
        TruncatedPoisson,
        TruncatedNegativeBinomial1,
        TruncatedNegativeBinomial2,
    )
}

# what other programs call them, where the spelling alone does not tell
OTHER_NAMES = {"negativebinomial": "nbinom2", "negbin": "nbinom2", "nb": "nbinom2", "bernoulli": "binomial"}
OTHER_NAMES |= {"normal": "gaussian", "wald": "inverse_gaussian"}
OTHER_NAMES |= {"t": "student_t", "tfamily": "student_t", "ztpoisson": "truncated_poisson"}


def get(family: str | Family, link: str | Link | None = None) -> Family:
    """The family called ``family``, or ``family`` itself when it is one; with ``link`` in place of its own.

    Raises:
        ValueError: for a name that is not in ``FAMILIES``, or a link that the family does not accept.
    """
    if isinstance(family, Family):
        return family if link is None else replace(family, link=link)
    accepted = f"Accepted: {', '.join(FAMILIES)}, or a Family of your own"
    if isinstance(family, type) and issubclass(family, Family):
        raise ValueError(f"family is the class {family.__name__}: make an instance, {family.__name__}()")
    if not isinstance(family, str):
        shown = (
            repr(family) if family is None or isinstance(family, int | float) else f"of type {type(family).__name__}"
        )
        raise ValueError(f"family {shown} is not available. {accepted}; the order is glmm(formula, data, family)")
    if family not in FAMILIES:
        hint = f"; did you mean {nearest!r}?" if (nearest := _nearest(family)) else "."
        raise ValueError(f"family {family!r} is not available{hint} {accepted}")
    return FAMILIES[family](link)


def _nearest(name: str) -> str | None:
    """The accepted spelling of another program's."""
    plain = "".join(c for c in name.lower() if c.isalnum())
    spelled = {n.replace("_", ""): n for n in FAMILIES} | OTHER_NAMES
    close = difflib.get_close_matches(plain, spelled, n=1)
    return spelled[close[0]] if close else None
