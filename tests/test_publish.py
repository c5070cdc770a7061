"""Tables for papers: the digits, the alignment, what each language needs escaped, one fit and several."""

import math
import re
from html.parser import HTMLParser

import pytest
from helpers import says

import jaxmm as mm
from jaxmm.publish import numbers, one, parts
from jaxmm.publish.hypertext import html
from jaxmm.publish.interchange import PlugIn
from jaxmm.publish.latex import escape, latex
from jaxmm.publish.latex import number as latex_number
from jaxmm.publish.markdown import markdown
from jaxmm.publish.plain import plain
from jaxmm.publish.sheet import Number, Part, Row, Sheet, Symbol, fragments


@pytest.fixture(scope="module")
def slopes():
    return mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))


@pytest.fixture(scope="module")
def intercepts():
    return mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))


@pytest.fixture(scope="module")
def cbpp():
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return mm.glmm(formula, mm.datasets.load("cbpp"), "binomial")


# ---------------------------------------------------------------- digits
@pytest.mark.parametrize(
    ("estimate", "se", "shown"),
    [
        (251.405, 6.825, ("251.41", "6.83")),
        (10.467, 1.546, ("10.47", "1.55")),
        (-0.0003, 9.996, ("0.0", "10.0")),  # no negative zero, and the rounded error has the digits
        (123456.0, 15460.0, ("123456", "15460")),
        (1.23456e-9, 2.5e-11, ("1.2346e-09", "2.50e-11")),
        (1.23456e9, 2.5e7, ("1.2346e+09", "2.50e+07")),
        (0.0, 2.5e-11, ("0", "2.50e-11")),
        (math.nan, math.nan, ("", "")),
        (5.0, 0.0, ("5.000", "0.000")),
    ],
)
def test_decimals_follow_the_standard_error(estimate, se, shown):
    places = numbers.decimals(estimate, se, 3)
    assert (numbers.text(estimate, places, 3, se), numbers.text(se, places, 3, se)) == shown


def test_digits_do_not_depend_on_the_unit():
    for power in (-3, 0, 3):
        places = numbers.decimals(10.467 * 10.0**power, 1.546 * 10.0**power, 3)
        shown = numbers.text(10.467 * 10.0**power, places, 3, 1.546 * 10.0**power)
        assert float(shown) == pytest.approx(10.47 * 10.0**power, rel=1e-9 if power < 3 else 1e-3)


def test_neighbours_have_the_same_decimals():
    assert numbers.several_decimals([3.3, 6.7, 0.01], [10.9, 9.7, 0.002], 3) == [2, 2, 5]


def test_p_values():
    assert [numbers.p_text(p, False) for p in (0.0456, 0.0009, 1.0, math.nan)] == ["0.046", "<0.001", "1.000", ""]
    assert [numbers.p_text(p, True) for p in (3.2638e-6, 0.0)] == ["3.26e-06", "<1e-16"]
    assert [numbers.stars(p, (0.05, 0.01, 0.001)) for p in (0.05, 0.049, 0.0, math.nan)] == [0, 1, 3, 0]


# ---------------------------------------------------------------- alignment
def test_cells_of_a_column_are_equally_wide():
    cells = [Number(("-10.4",)), Number(("1.546",), "(", ")", 1), Number(("180",)), Number(("<0.001",)), ""]
    cells += [Number(("1", "23.5"), "[", "]"), Number(("-11.25", "3"), "[", "]")]
    sheet = Sheet(("x",), (Part(tuple(Row("", (c,)) for c in cells)),))
    pieces = [column[0] for column in fragments(sheet)]
    texts = ["".join(f.text if f.shown else " " * len(f.text) for f in p) for p in pieces if not isinstance(p, str)]
    assert len({len(t) for t in texts[:4]}) == 1 and len(set(map(len, texts[4:]))) == 1
    point = [t.find(".") if "." in t else re.search(r"\d(?!\d)", t).end() for t in texts[:4]]  # pyright: ignore
    assert len(set(point)) == 1
    assert [t.strip() for t in texts] == ["-10.4", "(1.546)*", "180", "<0.001", "[1,    23.5]", "[-11.25,  3]"]


def test_scientific_numbers_stand_as_they_are():
    cells = (Number(("1.2e-09",), "(", ")"), Number(("NaN",)), Number(("2.5",)))
    shown = plain(Sheet(("x",), (Part(tuple(Row("a", (c,)) for c in cells)),)))
    assert "(1.2e-09)" in shown and "NaN" in shown and "2.5" in shown


# ---------------------------------------------------------------- languages
def test_latex_escapes():
    assert escape("a_b & 50% #1 $x$ {y}") == r"a\_b \& 50\% \#1 \$x\$ \{y\}"
    assert escape("I(x^2)~\\") == r"I(x\textasciicircum{}2)\textasciitilde{}\textbackslash{}"
    assert (
        escape("a---b") == "a-{}-{}-b" and escape("μ²\n<1|2>") == r"$\mu$$^{2}$ \textless{}1\textbar{}2\textgreater{}"
    )
    assert latex_number("-1.25e-09") == r"$-1.25\times10^{-9}$" and latex_number("<1e-16") == "$<10^{-16}$"
    assert latex_number("[-1.2, 3.4]") == "[$-$1.2, 3.4]" and latex_number("<0.001") == "$<$0.001"


def _ugly() -> Sheet:
    rows = (Row("[x]", (Number(("1.5",)), "a_b")), Row("*y*|z", (Number(("-2.25",), stars=2), "")))
    return Sheet((Symbol("t"), "50%"), (Part(rows, "A & B"),), ("p < 0.05",), "cap_tion", (("m_1", 2),))


def test_latex_is_whole():
    text = latex(_ugly(), "tab:x")
    lines = text.splitlines()
    assert lines[0] == r"% \usepackage{booktabs}" and r"\caption{cap\_tion}" in text and r"\label{tab:x}" in text
    assert r" & \multicolumn{2}{c}{m\_1} \\" in lines and r"\cmidrule(lr){2-3}" in lines
    assert r"\multicolumn{3}{l}{\textit{A \& B}} \\" in lines
    # after \\ or \midrule a [ would be taken for a length, a * for the starred form
    assert any(line.startswith("{}[x] & ") for line in lines) and any(line.startswith("{}*y*") for line in lines)
    _balanced(text)
    body = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line and " & " in line]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in body)
    assert latex(Sheet(("a",), ())).splitlines()[1] == r"\begin{tabular}{lc}"


def _balanced(text: str) -> None:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0 and text.count("\\begin{") == text.count("\\end{")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.widths: list[int] = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
            self.widths.append(0)
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.widths[-1] += int(dict(attrs).get("colspan", 1))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def _read_html(text: str) -> _Tags:
    reader = _Tags()
    reader.feed(text)
    assert not reader.open and len(set(reader.widths)) == 1
    return reader


def test_html_is_well_formed():
    rows = [[cell.strip() for cell in row] for row in _read_html(html(_ugly())).rows]
    assert rows[3] == ["[x]", "−1.50**", "a_b"]  # what only takes its place is in the text too
    assert rows[4] == ["*y*|z", "−2.25**", ""] and rows[-1] == ["p < 0.05"]
    assert '<span style="visibility:hidden" aria-hidden="true">−</span>1.5<span' in html(_ugly())


def test_markdown_has_one_width_and_escapes():
    lines = markdown(_ugly()).splitlines()
    tabular = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tabular} == {4}
    assert len({len(line) for line in tabular}) == 1
    assert tabular[1].startswith("| ---") and tabular[1].endswith("-: |")
    assert r"\*y\*\|z" in tabular[-1] and r"-2.25\*\*" in tabular[-1] and r"a\_b" in tabular[-2]
    assert lines[-1] == r"p \< 0.05" and r"Table: cap\_tion" in lines


# ---------------------------------------------------------------- one fit
def test_a_fit(slopes):
    found = parts.content(slopes, None)
    days = found.fixed["", "Days"]
    assert (days.estimate, days.se, days.df) == pytest.approx((10.46729, 1.545790, 17.0), rel=1e-5)
    assert days.p == pytest.approx(3.2638e-6, rel=1e-3)  # lmerTest
    assert (days.lower, days.upper) == pytest.approx((7.205956, 13.728616), rel=1e-5)  # 10.467 ± qt(0.975, 17) 1.546
    lines = plain(one.sheet(slopes)).splitlines()
    cells = {line.split("  ")[0]: re.split(r"\s{2,}", line)[1:] for line in lines}
    assert cells["Days"][:5] == ["10.47", "1.55", "17.0", "6.77", "<0.001"]
    assert lines[-1].startswith("Tests") and any("7.21,  13.73]" in line for line in lines)
    shown = {name: values[0] for name, values in cells.items() if values}
    assert shown["Subject: SD (Intercept)"] == "24.74" and shown["Subject: Corr. (Intercept), Days"] == "0.066"
    assert shown["Residual SD"] == "25.59" and shown["Observations"] == "180" and shown["Levels of Subject"] == "18"
    assert shown["Log-likelihood"] == "-871.81" and shown["AIC"] == "1755.63"
    assert "t with Satterthwaite degrees of freedom" in lines[-1]


def test_a_fit_in_each_language(slopes):
    text = slopes.to_latex(caption="Sleep", label="tab:sleep", names={"Days": "Days of study", "Subject": "Person"})
    _balanced(text)
    assert "Days of study & " in text and "Person: Corr. (Intercept), Days of study" in text
    assert "$t$" in text and "95\\% CI" in text and "$-$871.81" in text and "$<$0.001" in text
    _read_html(slopes.to_html(exact_p=True))
    assert "3.26×10<sup>−6</sup>" in slopes.to_html(exact_p=True)
    assert "| Days " in slopes.to_markdown() and slopes.to_markdown(notes=False).rstrip().endswith("|")
    assert "90% CI" in slopes.to_markdown(level=0.9)


def test_tests_and_covariances_of_ones_own(slopes):
    residual = one.sheet(slopes, ddf="residual")
    assert any("Residual degrees of freedom" in n for n in residual.notes)
    assert "df" not in one.sheet(slopes, ddf="asymptotic").head
    doubled = parts.content(slopes, None, parts.Errors(vcov=4 * slopes.vcov().to_numpy()))
    assert doubled.fixed["", "Days"].se == pytest.approx(2 * slopes.bse["Days"])
    assert "standard errors by the covariance given" in doubled.notes
    robust = slopes.to_markdown(vcov="CR2", cluster="Subject")
    assert robust.lower().count("standard errors") == 1  # said once
    assert "Standard errors robust within clusters: CR2, 18 of 'Subject'." in robust


def test_a_generalised_fit(cbpp):
    sheet = one.sheet(cbpp, stats=["nobs", "family"])
    assert sheet.head[2] == "z" and "df" not in sheet.head
    assert [row.name for row in sheet.parts[-1].rows] == ["Observations", "Family"]
    assert sheet.parts[-1].rows[1].cells[0] == "binomial (logit)"
    assert [row.name for row in sheet.parts[1].rows] == ["herd: SD (Intercept)"]  # no residual
    _balanced(cbpp.to_latex(stats={"Trials": lambda fit: 842}))
    _read_html(cbpp.to_html())


def test_shares_of_the_variance(slopes):
    found = parts.content(slopes, ["r2", "icc"]).statistics
    assert list(found) == ["R² (marginal)", "R² (conditional)", "ICC"]
    assert list(found.values()) == pytest.approx([*slopes.r2(), slopes.icc()["adjusted"]])
    assert r"R$^{2}$ (marginal) & " in slopes.to_latex(stats="r2")


def test_names_lose_their_back_quotes():
    assert one.renamed("`a b`:x", {}) == "a b:x" and one.renamed("`a b`", {"`a b`": "A"}) == "A"


def test_bad_arguments_of_one(slopes):
    with pytest.raises(ValueError, match=r"stats: unknown 'r3'; there are 'response'"):
        slopes.to_latex(stats=["r3"])
    with pytest.raises(ValueError, match="digits must be a whole number from 1 to 10, not 0"):
        slopes.to_html(digits=0)
    with pytest.raises(ValueError, match="level must lie between"):
        slopes.to_markdown(level=95)
    with pytest.raises(TypeError, match="no keyword 'capton': did you mean 'caption'"):
        slopes.to_latex(capton="x")


# ---------------------------------------------------------------- several
def test_two_fits_side_by_side(intercepts, slopes):
    table = mm.table([intercepts, slopes], labels=["Intercepts", "Slopes"], stars=True)
    frame = table.frame
    assert frame["Slopes", "estimate"]["fixed", "", "Days"] == pytest.approx(10.46729, rel=1e-5)
    assert math.isnan(frame["Intercepts", "estimate"]["random", "Subject", "SD Days"])
    assert frame["Slopes", "estimate"]["fit", "", "Observations"] == 180
    assert list(frame.index.get_level_values("part").unique()) == ["fixed", "random", "fit"]
    lines = repr(table).splitlines()
    days = next(k for k, line in enumerate(lines) if line.startswith("Days"))
    assert lines[days].split() == ["Days", "10.467***", "10.467***"]
    assert lines[days + 1].split() == ["(0.804)", "(1.546)"]
    assert lines[days].index(".") == lines[days + 1].index(".")  # under each other
    assert any(line.split() == ["Subject:", "SD", "Days", "5.922"] for line in lines)
    assert "* p < 0.05, ** p < 0.01, *** p < 0.001." in lines
    _balanced(table.to_latex())
    assert "\n{}* p \\textless{} 0.05, ** p" in table.to_latex()  # no star of the \\ before it
    assert "$^{***}$" in table.to_latex() and "***" in _read_html(table.to_html()).rows[3][1]
    assert table._repr_html_() == table.to_html()
    assert r"10.467\*\*\*" in table.to_markdown()


def test_union_of_terms():
    assert mm.publish.several._union([["a", "d"], ["a", "b", "d", "e"], ["c", "e"]]) == ["a", "b", "d", "c", "e"]
    assert mm.publish.several._union([["a", "b"], ["b", "a"], ["x", "y", "a"], ["z"]]) == ["x", "y", "a", "b", "z"]


def test_columns_and_what_stands_in_them(intercepts, slopes):
    table = mm.table({"A": intercepts, "B": slopes}, se="column", show="interval", random=False, stats=[])
    assert table.sheet.spans == (("A", 2), ("B", 2)) and table.sheet.head == ("Estimate", "95% CI") * 2
    assert len(table.sheet.parts) == 1 and len(table.sheet.rows()) == 2
    assert "A: Estimate" in table.to_markdown() and r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in table.to_latex()
    _read_html(table.to_html())
    shown = repr(mm.table([slopes], show="p", terms=["Days"], names={"Days": "Time"}))
    assert "Time" in shown and "(<0.001)" in shown and "(Intercept)  " not in shown.split("Random")[0]
    assert "Satterthwaite" in shown


def test_the_same_fit_with_several_errors(slopes):
    table = mm.table([slopes, slopes], ["model", "doubled"], vcov=[None, 4 * slopes.vcov().to_numpy()])
    se = table.frame.xs("se", axis=1, level="quantity").loc[("fixed", "", "Days")]
    assert se["doubled"] == pytest.approx(2 * se["model"])
    assert "Doubled: standard errors by the covariance given." in table.sheet.notes
    assert not any("not comparable" in n for n in table.sheet.notes)


def test_what_differs_is_said(slopes, cbpp):
    table = mm.table([slopes, cbpp])
    names = [row.name for row in table.sheet.parts[-1].rows]
    assert names[:3] == ["Response", "Family", "Fitted by"]
    note = next(n for n in table.sheet.notes if "not comparable" in n)
    assert "REML and some by maximum likelihood" in note and "numbers of observations" in note and "responses" in note
    assert table.frame.dtypes.eq(float).all()


def test_bad_arguments_of_several(slopes):
    for bad, message in [
        ({"labels": ["a", "b"]}, "labels: 2 of them for 1 fits"),
        ({"se": "beside"}, "se must be 'below' or 'column', not 'beside'"),
        ({"show": "ci"}, "show must be one of 'se'"),
        ({"stars": [5]}, "stars must be True, False or levels"),
        ({"terms": ["days"]}, "terms: no fit has 'days'; there are '\\(Intercept\\)', 'Days'"),
        ({"ddf": ["residual", None]}, "ddf: 2 of them for 1 fits"),
    ]:
        with pytest.raises(ValueError, match=message):
            mm.table([slopes], **bad)
    with pytest.raises(TypeError, match="place 0 is a int, not a Fit"):
        mm.table([3])  # pyright: ignore
    with pytest.raises(ValueError, match="at least one fit"):
        mm.table([])


# ---------------------------------------------------------------- maketables
def test_protocol_of_maketables(slopes):
    frame = slopes.__maketables_coef_table__
    assert list(frame.columns) == ["b", "se", "t", "p", "df", "ci95l", "ci95u"] and list(frame.index) == [
        "(Intercept)",
        "Days",
    ]
    assert frame["p"]["Days"] == pytest.approx(3.2638e-6, rel=1e-3)
    assert slopes.__maketables_stat__("N") == 180 and slopes.__maketables_stat__("r2_within") is None
    assert slopes.__maketables_stat__("ll") == pytest.approx(-871.814, abs=1e-3)
    assert slopes.__maketables_depvar__ == "Reaction"
    assert all(slopes.__maketables_stat__(k) is not None for k in slopes.__maketables_default_stat_keys__)
    shown = PlugIn(slopes)
    assert not hasattr(shown, "params") and shown.__maketables_coef_table__.equals(frame)
    assert shown.__maketables_stat__("Subject: SD Days") == pytest.approx(5.9221, abs=1e-4)
    assert slopes.endog_names == shown.__maketables_depvar__ == "Reaction"


def test_keywords_are_those_of_the_verb(slopes):
    for verb, name in ((slopes.to_latex, "to_latex"), (slopes.to_html, "to_html"), (slopes.to_markdown, "to_markdown")):
        with says(TypeError, f"{name}() has no keyword 'foo'", "digits, level, ddf, vcov"):
            verb(foo=1)
    with says(TypeError, "to_latex() has no keyword 'digit': did you mean 'digits'", "accepted: label, digits"):
        slopes.to_latex(digit=2)
    with says(TypeError, "to_markdown() has no keyword 'label': label= is for to_latex() alone"):
        slopes.to_markdown(label="tab:a")


def test_a_label_has_a_number_to_refer_to(slopes):
    """LaTeX's label is that of the caption before it: there is one, empty, where none was given."""
    text = slopes.to_latex("tab:a_b")
    assert text.index("\\caption{}") < text.index("\\label{tab:a_b}") < text.index("\\begin{tabular}")
    assert "\\label" not in slopes.to_latex(caption="Fit") and "table}" not in slopes.to_latex()
    assert "\\caption{}\n\\label{tab:two}" in mm.table([slopes]).to_latex(label="tab:two")
    with says(ValueError, "label must be a text without", "'50%'"):
        slopes.to_latex("50%")
