"""Student's t about a mean: y = mu + sqrt(phi) t_nu, for errors with long tails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import HALF_LOG_2PI, rising_excess
from jaxmm.families._base import Family
from jaxmm.families.extras import Extra, Positive
from jaxmm.families.gaussian import Gaussian


@dataclass(frozen=True, repr=False)
class StudentT(Family):
    """log p = log((nu/2)_(1/2) / (nu/2)^(1/2)) - (nu + 1)/2 log(1 + (y - mu)^2 / (nu phi)) - log(2 pi phi) / 2.

    (a)_(1/2) is the rising factorial. ``fit.sigma`` is the scale, the root of phi, and not the standard deviation:
    Var y = phi nu / (nu - 2).  With nu <= 2 there is none: Pearson residuals and R² are NaN, and residuals by
    simulation (``fit.simulated_residuals``) are the ones to look at. As nu grows the distribution becomes normal.

    Args:
        link: of the mean.
        df: the degrees of freedom nu, where they are known; estimated otherwise, as ``fit.family_params["df"]``.

    Raises:
        ValueError: ``df`` is not a positive number.

    Example:
        >>> family = mm.families.StudentT(df=4)
        >>> family, float(family.variance(0.0, 1.0))
        (StudentT(link='identity', df=4), 2.0)

    Lange, Little & Taylor (1989), J. Am. Stat. Assoc. 84, 881-896.
    """

    df: float | None = None

    name = "student_t"
    links = ("identity", "log", "inverse")
    num_phi = 1
    has_scale = True
    support = "finite numbers"
    extras = (Extra(("df",), Positive(), (5.0,), limit="gaussian"),)

    def __post_init__(self):
        super().__post_init__()
        if self.df is None:
            return
        number = isinstance(self.df, int | float | np.number) and not isinstance(self.df, bool)
        if not number or not 0 < self.df < np.inf:
            raise ValueError(
                f"df must be a positive number, the degrees of freedom, or None to estimate it; not {self.df!r}"
            )
        object.__setattr__(self, "extras", ())

    def __repr__(self) -> str:
        fixed = "" if self.df is None else f", df={self.df!r}"
        return f"StudentT(link={self.link.name!r}{fixed})"

    @property
    def glm(self) -> Family:
        return Gaussian(self.link)

    def log_density(self, y, eta, phi, df: Any = None):
        df = self.df if df is None else df
        v = (y - self.link.inverse(eta)) ** 2 / (df * phi)
        constant = rising_excess(jnp.log(0.5 * jnp.asarray(df)), jnp.asarray(0.5))
        return constant - 0.5 * (df + 1) * jnp.log1p(v) - 0.5 * jnp.log(phi)

    def log_constant(self, y, trials=1.0):
        return jnp.full(jnp.shape(y), -HALF_LOG_2PI)

    def variance(self, mu, phi, trials: Any = 1.0, df: Any = None):
        df = jnp.asarray(self.df if df is None else df) + 0 * mu
        return jnp.where(df > 2, df / jnp.where(df > 2, df - 2, 1.0), jnp.nan)

    def sample(self, key, mu, phi, trials: Any = 1.0, df: Any = None):
        df = self.df if df is None else df
        return mu + jnp.sqrt(phi) * jax.random.t(key, df, mu.shape, mu.dtype)

    def unit_deviance(self, y, mu, phi, trials: Any = 1.0, df: Any = None):
        df = self.df if df is None else df
        return phi * (df + 1) * jnp.log1p((y - mu) ** 2 / (df * phi))
