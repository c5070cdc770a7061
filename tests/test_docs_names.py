"""Pages for newcomers: the verbs in their tables, which no cell runs, exist under the names given there."""

import functools
import pathlib
import re

import pytest

import jaxmm as mm
from jaxmm.diagnose.simulated import SimulatedResiduals
from jaxmm.means.result import Emmeans

START = pathlib.Path(__file__).parent.parent / "docs" / "start"
PAGES = sorted(START.glob("*.md"))
NAMED = {  # what a variable of the pages' prose and tables stands for
    "fit": mm.Fit,
    "fm": mm.Fit,
    "gm": mm.Fit,
    "model": mm.Model,
    "emm": Emmeans,
    "fit.model": mm.Model,
}


def unknown(text: str) -> list[str]:
    """``mm.a.b`` and ``fit.verb`` in a page that are no attributes of what they stand for."""
    names = []
    for path in re.findall(r"(?<![\w.])mm\.([A-Za-z_][\w.]*\w)", text):
        if functools.reduce(lambda at, name: getattr(at, name, None), path.split("."), mm) is None:
            names.append(f"mm.{path}")
    for variable, kind in NAMED.items():
        there = {*dir(kind), *(name for base in kind.__mro__ for name in vars(base).get("__annotations__", {}))}
        there |= {"model", "design"}  # set when one is made
        found = re.findall(rf"(?<![\w.]){re.escape(variable)}\.(?!md\b)([a-z_]\w*)", text)
        names += [f"{variable}.{name}" for name in found if name not in there]
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_verb_that_a_page_names_exists(page):
    assert not unknown(page.read_text("utf-8"))


def test_a_verb_that_is_not_there_is_found():
    assert unknown("`fit.blups()`, `mm.lmer`, `fit.fixef`, `mm.lmm`, `fit.model.design.X`") == ["mm.lmer", "fit.blups"]


def test_the_table_of_simulated_residuals_names_its_tests():
    row = next(line for line in (START / "from-lme4.md").read_text("utf-8").splitlines() if "testUniformity" in line)
    tests = re.findall(r"test_\w+", row)
    assert len(tests) == len(re.findall(r"test[A-Z]\w+", row)) and all(hasattr(SimulatedResiduals, t) for t in tests)
