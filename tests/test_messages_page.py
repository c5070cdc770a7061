"""docs/guides/messages.md has what the library can say: its words are compared with those of the sources."""

import re
import sys
from pathlib import Path

import pytest

import jaxmm as mm
from jaxmm.diagnose import check

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_build"))
from messages import AREAS, as_html, messages, telling, words  # noqa: E402

SOURCE = (ROOT / "docs" / "guides" / "messages.md").read_text()
TEXT = re.sub(r"^```python.*?^```", "", SOURCE, flags=re.M | re.S)  # what is written, not what cells show
PAGE = words(TEXT)
FOUND = messages(Path(mm.__file__).parent)
ERRORS = [m for m in FOUND if m.kind.endswith("Error")]


@pytest.mark.parametrize("status", mm.Status)
def test_every_status(status):
    assert f"`{status.name}`" in TEXT and status.message in TEXT


@pytest.mark.parametrize("kind", ["Warning", "Finding", "Note"])
def test_every_warning_finding_and_note(kind):
    texts = [m.text for m in FOUND if m.kind == kind]
    assert len(texts) >= {"Warning": 10, "Finding": 14, "Note": 40}[kind]
    assert [t for t in texts if telling(t) not in PAGE] == []


def test_every_kind_of_error():
    assert {m.kind for m in ERRORS if f"`{m.kind}`" not in TEXT} == set()


@pytest.mark.parametrize("area", AREAS)
def test_each_area_has_its_frequent_errors(area):
    assert sum(telling(m.text) in PAGE for m in ERRORS if m.area == area) >= 3


def test_every_error_is_in_the_list_of_all():
    """As many as there are `raise` with a text of their own; and the page shows the list."""
    shown = as_html(FOUND)
    assert all(m.kind in shown for m in FOUND) and shown.count("<li>") == len(FOUND) > 500
    assert "as_html(messages(" in SOURCE


def test_everything_that_a_check_looks_into():
    names = re.findall(r'Look\(\s*"([^"]+)"', Path(check.__file__).read_text())
    assert len(names) == 13 and [name for name in names if f"`{name}`" not in TEXT] == []


def test_what_is_raised_is_found_by_its_words():
    with pytest.raises(mm.DataError) as raised:
        mm.lmm("y ~ x + (1 | g)", {"y": [1.0], "x": [1.0]})
    said = words(str(raised.value))
    assert any(telling(m.text) in said for m in ERRORS if m.kind == "DataError")
    assert telling("'…' has … levels of {:.3g}: give the number of them") == "give the number of them"
