"""Wherever a key is asked for, a whole number is its seed: the same numbers as from jax.random.key of it."""

import inspect

import jax
import numpy as np
import pytest

import jaxmm as mm
from jaxmm._random import as_key, words


@pytest.mark.parametrize("seed", [0, 1, 7, np.int64(7), 2**32 - 1])
def test_a_seed_is_the_key_of_that_number(seed):
    np.testing.assert_array_equal(words(as_key(seed)), words(jax.random.key(int(seed))))


# every public callable with a key -> what it draws, few and fast
DRAWS = {
    "Fit.bootstrap": lambda f, key: f.bootstrap(2, key=key, progress=False).fixef,
    "Fit.check": lambda f, key: str(f.check(key=key)),
    "Fit.confint": lambda f, key: f.confint("bootstrap", key=key, n=39),
    "Fit.icc": lambda f, key: f.icc(interval="bootstrap", key=key, n=39),
    "Fit.multistart": lambda f, key: f.multistart(2, key=key).frame["loglik"],
    "Fit.predict": None,  # draws of a generalised model: tests/test_prediction_intervals.py
    "Fit.r2": lambda f, key: f.r2(interval="bootstrap", key=key, n=39),
    "Fit.simulate": lambda f, key: f.simulate(1, key=key),
    "Fit.simulated_residuals": lambda f, key: f.simulated_residuals(20, key=key).simulations,
    "DirectlySimulated": lambda f, key: mm.DirectlySimulated(f.model, f, 2, key).words(0, 2)[0],
    "Generated": lambda f, key: mm.Generated(lambda k: jax.random.normal(k, (180,)), 2, key).block(0, 2).y,
    "Simulated": lambda f, key: mm.Simulated(f.model, f, 2, key).block(0, 2).y,
    "BootstrapLRT": None,  # these two draw within a study: tests/test_study_tests.py
    "SignFlip": None,
    "anova": None,  # passes its key to bootstrap
    "bootstrap": None,
    "cross_validate": None,  # deals groups out to folds: tests/test_crossval.py
    "permutation_test": None,  # tests/test_permutation.py
    "exact_rlrt": None,
    "impute_reference": None,  # tests/test_imputation.py
    "power": None,  # these three make Simulated or DirectlySimulated of theirs
    "power_curve": None,
    "study": None,
}


def with_keys():
    """Names of the public callables, methods of Fit included, that have a parameter ``key``."""
    found = {name: getattr(mm, name) for name in mm.__all__ if callable(getattr(mm, name))}
    found |= {f"Fit.{name}": getattr(mm.Fit, name) for name in dir(mm.Fit) if not name.startswith("_")}
    for name, each in found.items():
        if not (inspect.isclass(each) and issubclass(each, Exception)) and callable(each):
            if "key" in inspect.signature(each).parameters:
                yield name


def test_every_callable_with_a_key_is_known_here():
    assert set(with_keys()) - {"Fit.conf_int"} == set(DRAWS)


@pytest.mark.parametrize("name", [n for n, draw in DRAWS.items() if draw is not None])
def test_the_same_numbers_from_a_seed_and_its_key(name, sleep_reml):
    one, other = (DRAWS[name](sleep_reml, key) for key in (3, jax.random.key(3)))
    assert one == other if isinstance(one, str) else np.array_equal(one, other, equal_nan=True)
    for wrong in (2.0, True, "1", -1):
        with pytest.raises((TypeError, ValueError), match=r"key=1 or|such as key=1, or one JAX key"):
            DRAWS[name](sleep_reml, wrong)
