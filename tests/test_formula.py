"""Formula text -> Terms: the grammar, R's spelling of names, and what a mistake is told."""

import pytest

from jaxmm.covariance import STRUCTURES
from jaxmm.design import syntax as _syntax
from jaxmm.design import terms as _terms
from jaxmm.design.formula import Bar, FormulaError, parse


def bars(text):
    return [(b.left, b.name, b.group, b.kind) for b in parse(f"y ~ {text}").bars]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(1 | g)", [("1", "g", ("g",), "us")]),
        ("(x | g)", [("x", "g", ("g",), "us")]),
        ("((1 | g))", [("1", "g", ("g",), "us")]),
        ("(0 + x | g)", [("0 + x", "g", ("g",), "us")]),
        ("(1 + x + z || g)", [("1 + x + z", "g", ("g",), "diag")]),
        ("(1 | a:b)", [("1", "a:b", ("a", "b"), "us")]),
        ("(1 | a/b)", [("1", "b:a", ("b", "a"), "us"), ("1", "a", ("a",), "us")]),
        ("(x || a/b)", [("x", "b:a", ("b", "a"), "diag"), ("x", "a", ("a",), "diag")]),
        ("(1 | a/b/c)", [("1", "c:(b:a)", ("c", "b", "a"), "us"), ("1", "b:a", ("b", "a"), "us"),
                         ("1", "a", ("a",), "us")]),
        ("(1 | a/(b:c))", [("1", "(b:c):a", ("b", "c", "a"), "us"), ("1", "a", ("a",), "us")]),
        ("(1 | factor(g))", [("1", "factor(g)", ("factor(g)",), "us")]),
        ("(1 | `my g`)", [("1", "my g", ("`my g`",), "us")]),
        ("(1|g)+(0+x|g)", [("1", "g", ("g",), "us"), ("0 + x", "g", ("g",), "us")]),
        ("us(0 + f | g)", [("0 + f", "g", ("g",), "us")]),
        ("diag((t + 0 | g))", [("t + 0", "g", ("g",), "diag")]),
        ("diag(1 + x | a/b)", [("1 + x", "b:a", ("b", "a"), "diag"), ("1 + x", "a", ("a",), "diag")]),
    ],
)  # fmt: skip
def test_bars(text, expected):
    assert bars(text) == expected


@pytest.mark.parametrize("kind", STRUCTURES)
def test_covariance_structures_parse(kind):
    text = f"{kind}(0 + f | g{', K' if STRUCTURES[kind].known else ''})"
    bar = parse(f"y ~ x + {text}").bars[0]
    assert bar.kind == kind and str(bar) == (text if kind not in ("us", "diag") else str(bar))


def test_a_structure_that_is_not_there_is_refused():
    with pytest.raises(FormulaError, match="around it may stand a structure: us, diag"):
        parse("y ~ x + spatial(0 + f | g)")


@pytest.mark.parametrize("option", ["nonsense = 3", "2"])
def test_an_option_that_a_structure_does_not_know_is_refused(option):
    with pytest.raises(FormulaError, match=f"no option: leave out {option}"):
        parse(f"y ~ us(0 + f | g, {option})")


@pytest.mark.parametrize(
    "text, fixed",
    [
        ("(1 | g)", "1"),
        ("x + (1 | g) - 1 + z", "x - 1 + z"),
        ("(1 | g) - 1", "-1"),
        ("(x + (1 | g)) + z", "(x) + z"),
        ("a * b + (1 | g) + offset(log(t))", "a * b"),
        ("offset(o) + (1 | g)", "1"),
        ("poly(x,2,raw=TRUE)+I( x^2 )+(1|g)", "poly(x, 2, raw = TRUE) + I(x^2)"),
        ("avg.IQ.ver.cen + .x + (1 | g)", "avg.IQ.ver.cen + .x"),
    ],
)
def test_fixed_part(text, fixed):
    assert str(parse(f"y ~ {text}").fixed) == fixed


def test_offsets_and_response():
    terms = parse("log(y + 1) ~ x + offset(log(t)) + offset(z) + (1 | g)")
    assert str(terms.response) == "log(y + 1)"
    assert [str(o) for o in terms.offsets] == ["log(t)", "z"]
    assert str(parse("cbind(s, f) ~ (1 | g)").response) == "cbind(s, f)"
    assert str(parse("cbind(incidence, size - incidence) ~ (1 | g)").response) == "cbind(incidence, size - incidence)"


def test_no_bar_is_not_the_parser_s_business():
    assert parse("y ~ x").bars == ()


def test_bar_made_by_hand():
    assert Bar("1", ("b", "a")).name == "b:a"


@pytest.mark.parametrize(
    "text, terms, intercept",
    [
        ("a * b", ["a", "b", "a:b"], True),
        ("b:a + a + b", ["a", "b", "b:a"], True),
        ("a:b + b", ["b", "a:b"], True),
        ("(a + b + c)^2", ["a", "b", "c", "a:b", "a:c", "b:c"], True),
        ("a / b", ["a", "a:b"], True),
        ("(a + b) / c", ["a", "b", "a:b:c"], True),
        ("a / (b + c)", ["a", "a:b", "a:c"], True),
        ("b %in% a", ["b:a"], True),
        ("a * b * c - a:b:c", ["a", "b", "c", "a:b", "a:c", "b:c"], True),
        ("a + b - a", ["b"], True),
        ("0 + a", ["a"], False),
        ("a - 1", ["a"], False),
        ("a + 0 + 1", ["a"], True),
        ("-1 + a", ["a"], False),
        ("a - 0", ["a"], True),
        (". - b", ["a", "c d"], True),
        (".^2", ["a", "b", "c d", "a:b", "a:c d", "b:c d"], True),
        ("a + a + (a)", ["a"], True),
        ("x > 5", ["x > 5"], True),
    ],
)
def test_term_algebra(text, terms, intercept):
    found = _terms.expand(_syntax.read(text), dot=["a", "b", "c d"])
    assert [found.label(t).replace("`", "") for t in found.terms] == terms
    assert found.intercept == intercept


def test_variables_within_a_term_come_by_first_appearance():
    found = _terms.expand(_syntax.read("a + b + b:a"))
    assert [found.label(t) for t in found.terms] == ["a", "b", "a:b"]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("I(x^2)", "I(x^2)"),
        ("I( x>2 )", "I(x > 2)"),
        ("I((x+1)*z/2)", "I((x + 1) * z/2)"),
        ("x%in%y", "x %in% y"),
        ("I(x%%2)", "I(x%%2)"),
        ("-x^2", "-x^2"),
        ("a:b", "a:b"),
        ("poly(x,degree=2)", "poly(x, degree = 2)"),
        ("`a b`", "`a b`"),
        ("`ab`", "ab"),
        ("I(x-1e5)", "I(x - 1e+05)"),
        ("I(x*123456)", "I(x * 123456)"),
        ("I(x*.10)", "I(x * 0.1)"),
        ("I(x*0.0001)", "I(x * 1e-04)"),
        ("I(x*2L)", "I(x * 2L)"),
        ("I(f=='q')", 'I(f == "q")'),
        ("!x & y", "!x & y"),
        ("x^-1", "x^-1"),
        ("splines::ns(x,3)", "splines::ns(x, 3)"),
        ("größe + 年", "größe + 年"),
    ],
)
def test_text_as_r_deparses_it(text, shown):
    assert str(_syntax.read(text)) == shown


@pytest.mark.parametrize(
    "text, left, op",
    [("a + b * c", "a", "+"), ("-a^2 + b", "-a^2", "+"), ("a:b * c", "a:b", "*"),
     ("a %in% b / c", "a %in% b", "/"),
     ("a - b - c", "a - b", "-"), ("-1:2", "-1", ":"), ("a^b^c", "a", "^")],
)  # fmt: skip
def test_precedence(text, left, op):
    tree = _syntax.read(text)
    assert (str(tree.left), tree.op) == (left, op)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "the formula is empty"),
        ("y + x", "two sides joined by '~'"),
        ("~ x + (1 | g)", "left of '~' is empty"),
        ("y ~", "right of '~' is empty"),
        ("y ~ x ~ z", "one '~'"),
        ("1 ~ x + (1 | g)", "names no response"),
        ("y ~ x + (1 | g", r"a '\(' is not closed"),
        ("y ~ x) + (1 | g)", r"a '\)' without its '\('"),
        ("y ~ `x + (1 | g)", "back-quote is not closed"),
        ("y ~ 'x + (1 | g)", "a text is not closed"),
        ("y ~ x + + ", r"something is missing after '\+'"),
        ("y ~ x + * z", "something is missing before '*'"),
        ("y ~ x z", "an operator is missing before 'z'"),
        ("y ~ log(1 | g)", "a bar inside a call"),
        ("y ~ I((1 | g))", "a bar inside a call"),
        ("y ~ (1 | a | b)", "a bar inside a bar"),
        ("y ~ x + 1 | g", r"needs its own brackets: \(x \+ 1 \| g\)"),
        ("y ~ x * (1 | g)", r"joined by '\+', not '\*'"),
        ("y ~ x > 2 + (1 | g)", r"its own brackets: y ~ I\(x > 2\)"),
        ("y ~ x - (1 | g)", r"joined by '\+', not '-'"),
        ("(1 | g) ~ x", "a bar belongs to the right"),
        ("y ~ (0 | g)", "no random effect is left"),
        ("y ~ (1 | 2)", "the number 2 is no grouping factor"),
        ("y ~ (1 | a * b)", r"write one term for each factor: \(1 \| a\) \+ \(1 \| b\) \+ \(1 \| a:b\)"),
        ("y ~ (1 | a + b)", r"\(1 \| a\) \+ \(1 \| b\)"),
        ("y ~ (1 | log(g))", "cannot group by"),
        ("y ~ (. | g)", "in the fixed part only"),
        ("y ~ (offset(x) | g)", "an offset has no random effect"),
        ("y ~ us(x || g)", "structure diag, which us"),
        ("y ~ cs(x) + (1 | g)", "goes around a random-effects term"),
        ("y ~ x ** 2 + (1 | g)", r"written '\^'"),
        ("y ~ x^2.5 + (1 | g)", r"arithmetic is I\(x\^2\)"),
        ("y ~ x^z + (1 | g)", r"arithmetic is I\(x\^2\)"),
        ("y ~ 2 * x + (1 | g)", "the number 2 stands where a column is due"),
        ("y ~ 'x' + (1 | g)", "stands where a column is due"),
        ("y ~ TRUE + (1 | g)", "stands where a column is due"),
        ("y ~ lag(x) + (1 | g)", r"'lag\(...\)' is not known.*lagged column"),
        ("y ~ s(x) + (1 | g)", r"ns\(x, 3\)"),
        ("y ~ np.log(x) + (1 | g)", r"write log\(x\)"),
        ("y ~ Log(x) + (1 | g)", "did you mean log"),
        ("y ~ sqr(x) + (1 | g)", "did you mean sqrt"),
        ("y ~ C(f) + (1 | g)", r"factor\(x\), with contrasts="),
        ("y ~ cbind(a, b) + (1 | g)", "on the left of '~' only"),
        ("cbind(a) ~ (1 | g)", "cbind takes two columns"),
        ("y ~ x:offset(t) + (1 | g)", "stands by itself in the sum"),
        ("y ~ offset(a, b) + (1 | g)", "offset takes one argument"),
        ("y ~ d$x + (1 | g)", "not part of a formula"),
        ("y ~ x[1] + (1 | g)", "not part of a formula"),
        ("y ~ _x + (1 | g)", "put it in back-quotes"),
        ("y ~ x = 2", "belongs inside a call"),
        ("y ~ x <- z", "is an assignment"),
        ("y ~ a && b + (1 | g)", "write '&'"),
        ("y ~ x % z", "%in%, %% and %/%"),
        ("y ~ @x", "not part of a formula"),
    ],
)
def test_mistakes_say_what_to_write(text, said):
    with pytest.raises(FormulaError, match=f"(?s){said}"):
        parse(text)


def test_a_mistake_shows_its_place():
    with pytest.raises(FormulaError) as caught:
        parse("y ~ x + lag(z) + (1 | g)")
    lines = str(caught.value).splitlines()
    assert lines[-2].index("lag") == lines[-1].index("^")


def test_formula_of_another_type():
    with pytest.raises(FormulaError, match="not int"):
        parse(3)  # type: ignore[arg-type]
