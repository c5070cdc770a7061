"""The reference of the site: every public name is on one of its pages, once."""

import importlib.util
import inspect
import re
from collections import Counter
from pathlib import Path

import jaxmm as mm
from jaxmm.covariance import STRUCTURES

PAGES = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
DIRECTIVES = [n for page in PAGES for n in re.findall(r"^::: jaxmm\.(\S+)$", page.read_text(), re.M)]

# of a fit and a model what other modules of the library read, and names that the page gives in its text
INTERNAL = {"Fit.effects", "Fit.modes", "Fit.factor_lam"}
OTHER_NAMES = {"Fit.params", "Fit.fe_params", "Fit.llf", "Fit.cov_params", "Fit.endog_names", "Fit.conf_int"}


def public(owner) -> list[str]:
    return [n for n in dir(owner) if not n.startswith("_")]


def own(module) -> list[str]:
    """Classes and functions that a module defines, or gathers from its own folder."""
    inside = getattr(module, "__all__", None) or public(module)
    made = {n: getattr(module, n) for n in inside}
    return [
        n
        for n, x in made.items()
        if (inspect.isclass(x) or inspect.isfunction(x)) and x.__module__.startswith(module.__name__)
    ]


def path_of(name: str) -> str:
    """``jaxmm.plan`` is a module for who reads the source, so that the function stands under its full name."""
    if importlib.util.find_spec(f"jaxmm.{name}") is None:
        return name
    return f"{getattr(mm, name).__module__}.{name}".removeprefix("jaxmm.")


def expected() -> set[str]:
    names = {path_of(n) for n in public(mm) if not inspect.ismodule(getattr(mm, n))}
    names |= {f"{c.__name__}.{n}" for c in (mm.Fit, mm.Model) for n in public(c)}
    names |= {f"{m}.{n}" for m in ("families", "datasets", "plots") for n in own(getattr(mm, m))}
    names |= {f"links.{n}" for n, x in vars(mm.links).items() if inspect.isclass(x) and issubclass(x, mm.links.Link)}
    names |= {f"covariance.{c.__name__}" for c in STRUCTURES.values()} | {"covariance.Covariance"}
    names |= {"sklearn.MixedRegressor"}  # imported by those alone who have scikit-learn
    return names - INTERNAL - OTHER_NAMES


def test_every_public_name_is_in_the_reference():
    missing = expected() - set(DIRECTIVES)
    assert not missing, f"no ::: for {sorted(missing)} in docs/reference"


def test_no_name_is_there_twice():
    assert [n for n, times in Counter(DIRECTIVES).items() if times > 1] == []


def test_what_the_reference_names_exists():
    for name in DIRECTIVES:
        if name.startswith("sklearn.") and importlib.util.find_spec("sklearn") is None:
            continue
        found: object = mm
        for part in name.split("."):
            if inspect.ismodule(found) and not hasattr(found, part):
                found = importlib.import_module(f"{found.__name__}.{part}")
            else:
                found = getattr(found, part)


def test_other_names_are_told_in_the_text():
    text = (PAGES[0].parent / "fit.md").read_text()
    assert all(f"`{n.split('.')[1]}`" in text for n in OTHER_NAMES)
