"""What a release says of itself: one version, everywhere the same, and the files that go with it."""

import re
import tomllib
from pathlib import Path

import pytest

import jaxmm

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_has_one_source():
    assert "version" in PROJECT["project"]["dynamic"] and "version" not in PROJECT["project"]
    source = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.findall(r'^__version__ = "(.+)"$', source, re.M) == [jaxmm.__version__]
    cited = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited == [jaxmm.__version__]


def test_the_changelog_knows_the_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased" and jaxmm.__version__ in [h.split()[0] for h in headings]


def test_what_a_source_distribution_includes_is_there():
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / path.lstrip("/")).exists(), path


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_files_that_are_named_exist(page):
    """In back quotes, with a suffix; a bare module name is one of the library's."""
    text = (ROOT / page).read_text()
    for name in re.findall(r"`([\w./-]+\.(?:py|md|cff|toml))`", text):
        places = [ROOT / name, ROOT / "jaxmm" / name, ROOT / "jaxmm" / "families" / name]
        assert any(p.exists() for p in places), name


def test_every_module_has_a_place_in_the_map():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| where | what |")[1].split("Rules that")[0]
    named = re.findall(r"`([\w/]+)`", table)
    top = {p.stem for p in (ROOT / "jaxmm").glob("*.py")} | {
        f"{p.parent.name}/" for p in (ROOT / "jaxmm").glob("*/*.py")
    }
    small = {"__init__", "_types", "_text", "_warn", "_keywords", "_context", "_random"}
    assert top - small == set(named) & (top - small)


def test_an_index_page_has_no_relative_paths():
    """The substitutions of the long description leave neither image nor link to a file beside the README."""
    text = (ROOT / "README.md").read_text()
    assert re.search(r"!\[[^\]]*\]\(docs/", text)  # what a clone shows
    for each in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    assert targets and all(t.startswith(("https://", "#")) for t in targets)
    assert "https://raw.githubusercontent.com/jaxmm/jaxmm/main/docs/shrinkage.png" in targets


def test_the_index_page_has_links_and_the_pythons_tried():
    assert {"Homepage", "Documentation", "Source", "Changelog", "Issues"} <= set(PROJECT["project"]["urls"])
    named = {c.split()[-1] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert named == {"3.11", "3.12", "3.13"}
