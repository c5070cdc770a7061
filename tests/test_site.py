"""The site's own machinery, `docs/_build`: cells are run and shown as their page says, formulas are MathML."""

import importlib.util
import sys
from pathlib import Path

import pytest

for needed in ("mkdocs", "nbclient", "ipykernel", "latex2mathml", "griffe"):
    pytest.importorskip(needed, reason="the docs extra is not installed")

DOCS = Path(__file__).parents[1] / "docs"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "_build" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, formulas, docstrings = (load(name) for name in ("hooks", "formulas", "docstrings"))

PAGE = """# Title

```sh
exit 1
```

```python
import warnings
x = 2
print("a `b` c")
warnings.warn("take care")
x + 1
```
Between.
```python tags=["remove-cell"]
assert x == 2
print("unseen")
```

```python tags=["raises-exception"]
raise ValueError("no such column")
```

```python tags=["remove-input"]
class Table:
    def _repr_html_(self):
        return "<style>td {}</style><table><tr><td>&lt;1&gt;</td></tr></table>"
Table()
```

```python alt="A line that \\"rises\\""
import matplotlib.pyplot as plt
plt.plot([1, 2]);
```
The end.
"""


@pytest.fixture(scope="module")
def executed():
    return hooks.execute(PAGE, "page")


def test_text_and_other_fences_stay(executed):
    assert executed.text.startswith("# Title\n\n```sh\nexit 1\n```\n")
    assert "\nBetween.\n" in executed.text and executed.text.endswith("The end.\n")


def test_what_a_cell_prints_warns_and_returns_is_below_it(executed):
    assert "```python\nimport warnings" in executed.text
    assert "``` { .text .output }\na `b` c\nUserWarning: take care\n```" in executed.text
    assert "``` { .text .output }\n3\n```" in executed.text
    assert "remove-" not in executed.text and "unseen" not in executed.text and "assert" not in executed.text


def test_an_expected_error_is_its_message(executed):
    assert "``` { .text .output }\nValueError: no such column\n```" in executed.text
    assert "Traceback" not in executed.text


def test_a_table_is_html_without_a_style_of_its_own(executed):
    assert '<div class="output">\n<table><tr><td>&lt;1&gt;</td></tr></table>\n</div>' in executed.text
    assert "class Table" not in executed.text and "<style" not in executed.text


def test_a_picture_is_a_file_with_words(executed):
    assert list(executed.pictures) == ["page-1.png"]
    assert executed.pictures["page-1.png"].startswith(b"\x89PNG")
    assert "![A line that &quot;rises&quot;](page-1.png)" in executed.text


def test_columns_of_words_are_known_from_the_right():
    table = '<table class="dataframe"><tr><th>0</th><td>ab</td><td>NaN</td><td>1.5</td></tr></table>'
    assert 'class="dataframe words-3"' in hooks._aligned(table)


@pytest.mark.parametrize(
    "page, message",
    [
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ('```python tags=["raises-exception"]\n1\n```\n', "is meant to raise and does not"),
    ],
)
def test_a_page_that_is_wrong_says_which_cell(page, message):
    with pytest.raises(hooks.Failed, match=message) as caught:
        hooks.execute(page, "page")
    assert page.split("\n")[1] in str(caught.value)


@pytest.mark.parametrize(
    "page, message",
    [
        ('```python tags=["hide"]\n1\n```\n', "unknown tags.*raises-exception"),
        ("```python title=1\n1\n```\n", "not understood"),
        ("text\n    ```python\n    1\n    ```\n", "line 2: .* at the start of the line"),
    ],
)
def test_what_would_not_be_run_is_refused(page, message):
    with pytest.raises(hooks.Failed, match=message):
        hooks.execute(page, "page")


def test_a_fence_is_longer_than_those_that_it_holds():
    assert hooks._text("````\n").startswith("\n````` {")


def test_formulas_are_mathml():
    shown = formulas.with_mathml(r'<p><span class="arithmatex">\(\beta &lt; 1\)</span></p>')
    assert shown.startswith('<p><span class="formula"><math') and "<mi>&#x003B2;</mi><mo>&#x0003C;</mo>" in shown
    assert 'display="block"' in formulas.with_mathml(r'<div class="arithmatex">\[x^2\]</div>')
    aligned = formulas.with_mathml(
        r'<div class="arithmatex">\[\begin{aligned}a &amp;= \log x\\ b &amp;= 1\end{aligned}\]</div>'
    )
    assert aligned.count("<mtr>") == 2 and f"<mi>log</mi>{formulas.THIN}<mi>x</mi>" in aligned
    with pytest.raises(ValueError, match=r"\\nosuch is not known"):
        formulas.with_mathml(r'<span class="arithmatex">\(\nosuch x\)</span>')


def test_examples_of_docstrings_are_code():
    text = "One line.\n\n>>> f(1)\n2\n\nMore."
    assert docstrings.fenced(text) == "One line.\n\n\n```pycon\n>>> f(1)\n2\n```\n\nMore."
    assert docstrings.fenced("a >>> b") == "a >>> b"


def test_names_in_docstrings_are_links():
    known = docstrings.spelled(["jaxmm.lmm", "jaxmm.Fit.vcov", "jaxmm.tables.VarCorr", "jaxmm.plots.levels"])
    assert sorted(known) == ["Fit.vcov", "VarCorr", "lmm"]
    assert docstrings.linked("as ``Fit.vcov`` and `lmm()`, not ``levels``", known) == (
        "as [`Fit.vcov`][jaxmm.Fit.vcov] and [`lmm()`][jaxmm.lmm], not ``levels``"
    )
    assert docstrings.RETURNED.sub(r"\1\2: ", "Returns:\n    ``VarCorr``: it") == "Returns:\n    VarCorr: it"
    assert docstrings.linked("```\n``lmm``\n```", known) == "```\n``lmm``\n```"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*/*.md")), ids=lambda p: p.stem)
def test_code_that_is_shown_does_not_scroll(page):
    cells = [m for m in hooks.CELL.finditer(page.read_text()) if "remove-" not in m[1]]
    assert [
        line for m in cells for line in m[2].splitlines() if len(line) > 88
    ] == []  # what the style sheet has room for
