"""Fit: a fitted model with its labels.  Every method delegates to the module that does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from jaxmm._elsewhere import OF_FIT, missing
from jaxmm._keywords import known_keywords
from jaxmm.studies.bootstrap import BOOTSTRAPPING, Bootstrap, bootstrap
from jaxmm.verbs.averaging import Averaging
from jaxmm.verbs.checking import Checking
from jaxmm.verbs.predicting import Predicting
from jaxmm.verbs.publishing import Publishing
from jaxmm.verbs.testing import Testing

# what other modules read of a fit: arrays without labels, names in the words of other packages' protocols
_UNLISTED = frozenset({"effects", "modes", "factor_lam", "endog_names"})


class Fit(Testing, Averaging, Predicting, Checking, Publishing):
    """A fitted mixed model; ``lmm``, ``glmm`` or ``Model.fit`` makes one.  Values are properties, the rest methods.

    ``model`` is what was fitted, ``estimates`` holds the estimates as arrays, in the columns that the search worked in
    too, and ``control`` is what the search was told.
    """

    def refit(self, y: Any) -> Self:
        """The same model with another response; nothing is compiled again.

        Args:
            y: (nobs,), for the rows that count; counts of successes where there are trials.

        Raises:
            DataError: another length, values that are not finite or not the family's.

        Example:
            >>> fit.refit(fit.simulate(1, key=1)[0]).converged
            True
        """
        return self.model.with_response(y).fit(control=self._control)

    def refit_ml(self) -> Self:
        """The same model by maximum likelihood; itself if it is that already.

        Example:
            >>> fit.refit_ml().reml
            False
        """
        return self.model.by_ml().fit(control=self._control) if self.reml else self

    @known_keywords(BOOTSTRAPPING, bootstrap)
    def bootstrap(self, n: int, *, key: Any, **options: Any) -> Bootstrap:
        """``jaxmm.bootstrap`` of this fit: ``n`` replicates from ``key``, with its other arguments as ``options``.

        Example:
            >>> fit.bootstrap(2, key=1, progress=False).fixef.shape
            (2, 2)
        """
        return bootstrap(self, n, key=key, **options)

    if not TYPE_CHECKING:  # which would take any name for known

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property that failed: its own error, once more
                return object.__getattribute__(self, name)
            raise missing("'Fit' object", name, OF_FIT, [] if name.startswith("_") else dir(self))

    def __dir__(self) -> list[str]:
        """What completion shows: all but what other modules read."""
        return sorted(set(super().__dir__()) - _UNLISTED)
