"""Every public name says what it is, takes and returns; the examples in docstrings run and print what they say."""

import doctest
import enum
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PAGES = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))

PARTS = ("covariance", "families", "links")
# protocols, of which a user writes one: docs/guides/own-families.md does it at length; and exceptions
WITHOUT_EXAMPLE = {
    "covariance.Covariance", "families.Family", "families.Further", "families.extras.Extra", "links.Link",
    "DataError", "FormulaError", "Fit",
}  # fmt: skip
# what a library that need not be installed makes: axes and figures of matplotlib, draws as ArviZ's version has them
UNTYPED = re.compile(r"plots\.\w+|\w+(\.\w+)*\.(plot|qq|to_arviz)")


def public():
    """Name -> function or class of the package and of the pages of the reference, or what such a class has of its own:
    its methods and properties. Those of families, links and structures are left out: the base class describes them, in
    the letters of the formulas, for who writes one."""
    found = {n: getattr(mm, n) for n in mm.__all__ if not inspect.ismodule(getattr(mm, n))}
    listed = [n for page in PAGES for n in re.findall(r"^::: jaxmm\.(\S+)$", page.read_text(), re.M)]
    for name in listed:
        if not re.match(r"sklearn\.|(Fit|Model)\.", name):
            value = pkgutil.resolve_name(f"jaxmm.{name}")
            if value not in found.values():
                found[name] = value
    for name, each in list(found.items()):
        if inspect.isclass(each) and name.split(".")[0] not in PARTS:
            for member in (m for m in dir(each) if not m.startswith("_")):
                owner = next((c for c in each.__mro__ if member in c.__dict__), object)
                value = inspect.getattr_static(each, member)
                described = callable(value) or isinstance(value, property | classmethod | staticmethod)
                if owner.__module__.startswith("jaxmm") and described:
                    found[f"{name}.{member}"] = value
    return found


PUBLIC = public()


def needs_example(name, value):
    return inspect.isclass(value) or (inspect.isfunction(value) and ("." not in name or name.startswith("Fit.")))


def function_of(name, value):
    """What arguments are read off: a function, or a class that users make; None of a property, and of what the library
    makes itself."""
    if inspect.isclass(value):
        made = name in mm.__all__ or name.split(".")[0] in PARTS
        return value if made and not issubclass(value, Exception | enum.Enum) else None
    value = getattr(value, "__func__", value)  # of a method of a class
    return value if callable(value) else None


def docstring(value):
    return inspect.getdoc(value) or ""


def described(value):
    """A docstring; of a class those of its bases too, which have its attributes."""
    return "\n".join(map(docstring, value.__mro__ if inspect.isclass(value) else (value,)))


def test_every_public_name_has_a_docstring():
    assert [name for name, value in PUBLIC.items() if not docstring(value)] == []


def test_functions_classes_and_verbs_of_a_fit_have_an_example():
    without = {n for n, v in PUBLIC.items() if needs_example(n, v) and ">>>" not in docstring(v)}
    assert sorted(without) == sorted(WITHOUT_EXAMPLE)


def test_every_argument_is_named_in_the_docstring():
    missing = []
    for name, value in PUBLIC.items():
        if (function := function_of(name, value)) is not None:
            asked = [a for a in inspect.signature(function).parameters if a not in ("self", "cls")]
            missing += [f"{name}({a})" for a in asked if not re.search(rf"\b{a}\b", described(value))]
    assert missing == []


def test_what_is_returned_is_annotated():
    missing = []
    for name, value in PUBLIC.items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isroutine(function) and not UNTYPED.fullmatch(name):
            if function.__annotations__.get("return", "Any") in ("Any", Any):
                missing.append(name)
    assert missing == []


STATISTICS = (
    "lmm glmm deviance neg2_loglik anova compare exact_rlrt bootstrap study power "
    "Fit.vcov Fit.coef_table Fit.test Fit.anova Fit.confint Fit.profile Fit.r2 Fit.icc Fit.ranef Fit.emmeans "
    "Fit.emtrends Fit.joint_tests Fit.marginal_coef Fit.predict Fit.joint_vcov Fit.influence Fit.re_pca "
    "Fit.simulated_residuals Fit.aic Fit.bic Bootstrap.confint LikelihoodRatio"
)


@pytest.mark.parametrize("name", STATISTICS.split())
def test_what_is_statistics_has_its_source(name):
    assert re.search(r"[\w'] \(?(19|20)\d\d\b", docstring(PUBLIC[name])), "name the paper"


def test_completion_shows_what_is_for_users(sleep_reml):
    assert not {"accumulator", "theta_terms", "parts"} & set(dir(sleep_reml.model))
    assert {"fit", "arrays", "plan", "by_ml", "design"} <= set(dir(sleep_reml.model))


@pytest.fixture(scope="module")
def herds():
    cbpp = mm.datasets.load("cbpp")
    return mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial")


@pytest.mark.parametrize("name", [n for n, v in PUBLIC.items() if ">>>" in docstring(v)])
def test_examples_print_what_they_say(name, request, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = docstring(PUBLIC[name])
    fits = {"fit": "sleep_reml", "herds": "herds"}
    names = {known: request.getfixturevalue(fixture) for known, fixture in fits.items() if known in text}
    names |= {"mm": mm, "np": np, "pd": pd, "jax": jax}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test).failed
    assert not failed, capsys.readouterr().out
