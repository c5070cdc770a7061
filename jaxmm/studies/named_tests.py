"""Tests of a study by name: a model and names -> test objects, one for each hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxmm.model import Model
from jaxmm.studies.hypotheses import Columns, LikelihoodRatio, Test, WaldZ, columns_of
from jaxmm.studies.resampled_tests import BootstrapLRT, SignFlip
from jaxmm.studies.small_samples import KenwardRoger, Satterthwaite


def _each(hypotheses: Sequence[Columns]) -> list[Test]:
    return [WaldZ(tuple(dict.fromkeys(c for columns in hypotheses for c in columns)))]


NAMED: dict[str, Callable[[Sequence[Columns]], list[Test]]] = {
    "z": _each,
    "satterthwaite": lambda hypotheses: [Satterthwaite(columns) for columns in hypotheses],
    "kenward-roger": lambda hypotheses: [KenwardRoger(columns) for columns in hypotheses],
    "kenward-roger-linear": lambda hypotheses: [
        KenwardRoger(columns, "Kenward-Roger, linear", ddf="kenward-roger-linear") for columns in hypotheses
    ],
    "lrt": lambda hypotheses: [LikelihoodRatio(columns) for columns in hypotheses],
    "bootstrap": lambda hypotheses: [BootstrapLRT(columns) for columns in hypotheses],
    "permutation": lambda hypotheses: [SignFlip(columns) for columns in hypotheses],
}


def as_tests(model: Model, given: Any, of: Any = None) -> list[Test]:
    """Tests by name, of the hypotheses ``of``, and objects as they are.

    Args:
        of: a column, a term, or a list of these; every column but the intercept where None.

    Raises:
        ValueError: an unknown name, an unknown coefficient, nothing to test.
        TypeError: what is no test.
    """
    out: list[Test] = []
    for one in [given] if isinstance(given, str) else list(given):
        if isinstance(one, str):
            if one not in NAMED:
                known = ", ".join(map(repr, NAMED))
                raise ValueError(f"there is no test {one!r}; there are {known}, and objects such as mm.WaldZ()")
            out += NAMED[one](_hypotheses(model, of))
        elif isinstance(one, type) or not hasattr(one, "p_values"):
            raise TypeError(f"tests must be names or objects such as mm.WaldZ(), not {one!r}")
        else:
            out.append(one)
    return out


def _hypotheses(model: Model, of: Any) -> list[Columns]:
    d = model.design
    asked = [c for c in d.columns if c != "(Intercept)"] if of is None else [of] if isinstance(of, str) else list(of)
    if not asked:
        raise ValueError("there is nothing to test: name a coefficient or a term in of=")
    return list(dict.fromkeys(columns_of(d, one) for one in asked))
