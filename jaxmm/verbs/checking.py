"""What may be wrong with a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import diagnostics
from jaxmm._context import computing
from jaxmm._keywords import SIMULATING, known_keywords
from jaxmm.diagnose import check, components, finding, multistart, pictures, simulated
from jaxmm.fitted import Fitted
from jaxmm.inference.influence import Influence, influence


class Checking(Fitted):
    """See the module."""

    @property
    def singular_terms(self) -> list[str]:
        """The terms with a diagonal element of Λ below 1e-4, as they are written in the formula."""
        return diagnostics.singular_terms(self)

    @property
    def is_singular(self) -> bool:
        """Whether some diagonal element of a term's triangular Λ is below 1e-4 (times the unit of η, where there is
        one)."""
        return bool(self.singular_terms)

    @property
    def diagnostics(self) -> diagnostics.Diagnostics:
        """How the search ended and where it ran."""
        return diagnostics.diagnostics(self)

    @property
    def remarks(self) -> list[str]:
        """What limits the meaning of the estimates, one sentence each; empty for most fits."""
        return diagnostics.remarks(self)

    def accuracy(self) -> str | None:
        """What more nodes would do to the log-likelihood of a Laplace fit, in a sentence; None with several factors.

        Example:
            >>> fit.accuracy() is None  # the likelihood of a linear model is exact
            True
        """
        if "_accuracy" not in self.__dict__:  # once: printing computes nothing
            with computing(self.model.device):
                self.__dict__["_accuracy"] = self.model.likelihood.accuracy(self)
        return self.__dict__["_accuracy"]

    def check(self, *, key: Any = None) -> finding.Check:
        """What is the matter with the fit, and what to do about each: print it.

        Looks into convergence, separation, singular covariances, flat directions, levels, collinear terms, and whether
        residuals and random effects are distributed as the model says: of counts by simulation, with ``key``
        (a seed or a JAX key; 0 where None). A sequence of ``Finding`` with ``severity``, ``text``, ``advice``; ``ok``
        where there is nothing but notes. See ``diagnose.check``.

        Example:
            >>> [f.severity for f in fit.check()]
            ['caution', 'caution']
        """
        return check.check(self, key)

    @known_keywords(SIMULATING)
    def simulated_residuals(self, n: int = 250, *, key: Any, re: str = "conditional") -> simulated.SimulatedResiduals:
        """Randomised quantile residuals: the place of each response among ``n`` that the fit would give, in (0, 1).

        Args:
            n: simulated responses.
            key: a seed, such as 1, or a key, such as ``jax.random.key(1)``; it alone decides the simulations and how
                ties are broken.
            re: "conditional", given the fitted effects of the levels at hand (the default of DHARMa since 0.5), or
                "new", with effects drawn anew (its default before). See ``diagnose.simulated`` on what each finds.

        Print it for its tests: uniformity, dispersion, outliers, zeros, quantiles; ``test_by(column)``,
        ``test_autocorrelation(column)``; ``plot()``.

        Raises:
            ValueError: ``n`` below 20, another ``re``.
            TypeError: no key.

        Dunn & Smyth (1996), J. Comput. Graph. Stat. 5.

        Example:
            >>> bool(fit.simulated_residuals(20, key=1).residuals.between(0, 1).all())
            True
        """
        return simulated.simulated_residuals(self, n, key, re)

    @known_keywords({"groups": "by='Subject'", "group": "by='Subject'", "exact": "refit=True or refit=False"})
    def influence(self, by: str = "case", *, refit: bool = True) -> Influence:
        """What each row, or each level of a factor, does to the estimates: Cook's distance, dfbetas, leverage.

        Args:
            by: "case", or the name of a grouping factor.
            refit: whether to fit again without each of them, all as one batch; else from derivatives at the estimates.

        Returns:
            ``Influence``: ``frame``, ``exact`` and ``derivative`` (the change of every parameter), ``plot()``.

        Raises:
            ValueError: ``by`` is neither "case" nor a grouping factor.

        Cook (1977), Technometrics 19; Belsley, Kuh & Welsch (1980), Regression Diagnostics, 2.1. See
        ``inference.influence``.

        Example:
            >>> fit.influence("Subject", refit=False).frame["cooks_distance"].shape
            (18,)
        """
        return influence(self, by, refit)

    def re_pca(self) -> components.RePCA:
        """Principal components of each factor's random effects: how many dimensions the data ask for.

        By factor ``sd``, ``proportion``, ``loadings``; ``to_frame()`` has standard deviations over σ too, which are
        what lme4's ``rePCA`` gives. See ``diagnose.components``; Bates, Kliegl, Vasishth & Baayen (2015),
        arXiv:1506.04967.

        Example:
            >>> fit.re_pca()["Subject"].proportion.round(2).tolist()
            [0.95, 0.05]
        """
        return components.re_pca(self)

    @known_keywords({"seed": "key=seed"})
    def multistart(self, n: int = 20, *, key: Any, batch: int | None = None) -> multistart.Multistart:
        """The same search from ``n`` random starts as one batch: whether there is a better optimum.

        ``key``: a seed, such as 1, or a key, such as ``jax.random.key(1)``; start k depends on it and on k alone.
        ``batch`` as in ``fit_many``.
        ``frame`` has a row per start: log-likelihood, distance from this fit, whether it converged; ``better`` says
        whether one is better, and ``fit`` is the better one. See ``diagnose.multistart`` on how starts are drawn.

        Raises:
            ValueError: no positive ``n``; a model by ``n_agq="auto"``, which batches cannot have.

        Example:
            >>> fit.multistart(2, key=1).better
            False
        """
        return multistart.multistart(self, n, key, batch)

    def plot_residuals(self, axes: Any = None) -> np.ndarray:
        """Residuals against fitted values and, of a linear model, their normal Q-Q plot; see ``jaxmm.plots``.

        ``axes``: as many to draw into. Returns them, an array. ``simulated_residuals(key=...).plot()`` serves every
        family alike; ``jaxmm.plots.qq_ranef(fit)`` has the random effects.

        Raises:
            ImportError: without matplotlib.

        Example:
            >>> fit.plot_residuals().shape
            (2,)
        """
        return pictures.plot_residuals(self, axes)
