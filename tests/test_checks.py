"""What a model needs beyond a design: enough levels, effects that differ, a response that varies."""

import numpy as np
import pandas as pd
import pytest
from response_frame import BETA, BINOMIAL, GAMMA, POISSON, says

from jaxmm.design import build
from jaxmm.design.checks import check_glmm, check_lmm
from jaxmm.design.formula import parse

N = 12


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "y": np.tile([0, 1, 1], 4),
            "count": np.tile([0, 2, 5, 1], 3),
            "time": rng.gamma(2.0, size=N),
            "n": 3,
            "zero": 0,
            "one": 1,
            "three": 3,
            "half": 0.5,
            "x": rng.normal(size=N),
            "g": np.repeat(list("abcd"), 3),
            "row": np.arange(N),
            "k": "only",
        }
    )


def check(formula, frame, family, **arguments):
    design = build(parse(formula), frame, family=family, **arguments)
    check_lmm(design) if family is None else check_glmm(design, family)


@pytest.mark.parametrize("family, response", [(None, "time"), (GAMMA, "time"), (POISSON, "count"), (BINOMIAL, "y")])
@pytest.mark.parametrize(
    "term, parts",
    [
        ("(1 | k)", ["the grouping factor 'k' has the one level 'only'", "leave the term out"]),
        ("(x | g) + (0 + x | g)", ["two terms give the grouping factor 'g' the same effect 'x'"]),
        ("(0 + zero | g)", ["the effect 'zero'", "is zero in every row"]),
    ],
)
def test_what_every_model_needs(frame, family, response, term, parts):
    with says(*parts):
        check(f"{response} ~ x + {term}", frame, family)
    check(f"{response} ~ x + (1 | g)", frame, family)


@pytest.mark.parametrize(
    "term, parts",
    [
        ("(1 | row)", ["'row' has 12 levels and the data have 12 rows", "residuals"]),
        ("(x + n + count | g)", ["4 levels × 4 effects = 16 random effects", "residuals"]),
    ],
)
def test_residuals_and_effects_are_told_apart_only_with_a_scale(frame, term, parts):
    for family in (None, GAMMA):
        with says(*parts):
            check(f"time ~ x + {term}", frame, family)
    check(f"count ~ x + {term}".replace("+ count |", "+ time |"), frame, POISSON)
    check(f"cbind(y, n - y) ~ x + {term}", frame, BINOMIAL)


@pytest.mark.parametrize(
    "response, family, parts",
    [
        ("zero", BINOMIAL, ["'zero' is constant", "no success in any row", "nothing to explain"]),
        ("one", BINOMIAL, ["'one' is constant", "no failure in any row"]),
        ("cbind(zero, n)", BINOMIAL, ["'cbind(zero, n)' is constant", "no success"]),
        ("cbind(n, zero)", BINOMIAL, ["no failure"]),
        ("x < 100", BINOMIAL, ["no failure"]),
        ("zero", POISSON, ["'zero' is constant (0 in every row)"]),
        ("half", BETA, ["'half' is constant (0.5 in every row)"]),
        ("three", GAMMA, ["'three' is constant (3 in every row)"]),
        ("three", None, ["'three' is constant (3 in every row)"]),
    ],
)
def test_constant_responses(frame, response, family, parts):
    with says(*parts):
        check(f"{response} ~ x + (1 | g)", frame, family)


def test_constant_counts_are_estimable(frame):
    """A rate that does not vary has a finite estimate, and with exposures it does vary."""
    check("three ~ x + (1 | g)", frame, POISSON)
    check("cbind(one, n) ~ x + (1 | g)", frame, BINOMIAL)
