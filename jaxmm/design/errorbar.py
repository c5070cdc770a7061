"""``residual="us(visit | subject, by=arm)"`` -> what stands there: a structure around a bar, as of random effects, with
the time on its left; and what a formula of log φ may have beside it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxmm.covariance import STRUCTURES
from jaxmm.design import syntax as _syntax
from jaxmm.design.formula import Parts, Terms, check_calls, has_bar, is_offset
from jaxmm.design.syntax import Binary, Call, Expr, FormulaError, Name, Number, Paren


@dataclass(frozen=True)
class ErrorBar:
    """The covariance of the errors, ``us(visit | subject, by=arm)``: the structure `kind`, the `time`, None for the
    order of the rows, the columns of the `group`, () for all rows together, with its `name`, and those of `by`; the
    name of a known `matrix`, and `options` as of a ``Bar``."""

    kind: str
    time: Expr | None
    group: tuple[Expr, ...]
    name: str
    by: tuple[Expr, ...]
    text: str
    matrix: str | None = None
    options: tuple[tuple[str, int], ...] = ()


def parse_residual(text: str) -> ErrorBar:
    """Read the argument ``residual``, such as ``"us(visit | subject)"``.

    Raises:
        FormulaError: no text, no structure around a bar, an option that there is not.
    """
    example = "such as residual='us(visit | subject)'"
    if not isinstance(text, str):
        raise FormulaError(f"residual is a text, {example}, not {type(text).__name__}")
    text = " ".join(text.split())
    tree = _syntax.read(text.removeprefix("~").strip()) if text else None
    if not isinstance(tree, Call) or has_bar(tree) is None:
        raise FormulaError(f"residual is a structure around a bar, {example}", text)
    kind = tree.func.split("::")[-1]
    parts = Parts(text)
    if kind not in STRUCTURES:
        raise parts.error(
            f"the covariance structure {kind}(...) is not available; those that are: {', '.join(STRUCTURES)}", tree
        )
    check_calls(tree, text, left=False)
    (keyword, first), *others = tree.args
    bar = first.arg if isinstance(first, Paren) else first
    if keyword is not None or not (isinstance(bar, Binary) and bar.op == "|"):
        raise parts.error(f"{kind}(...) takes the time and the subject first: {kind}(visit | subject)", tree)
    by: tuple[Expr, ...] = ()
    matrix, others = parts.matrix(kind, others, tree)
    options, others = parts.options(kind, others)
    for name, value in others:
        if name != "by":
            shown = str(value) if name is None else f"{name} = {value}"
            raise parts.error(f"{kind}(...) takes by=, a factor whose levels have parameters of their own: leave out "
                              f"{shown}", value)  # fmt: skip
        by = tuple(_syntax.read(g) for g in parts.crossed(value)[1])
    time = _time(bar.left, parts)
    if isinstance(bar.right, Number) and bar.right.value == 1:
        return ErrorBar(kind, time, (), "1", by, text, matrix, options)
    name, group = parts.nested(bar.right)[0]
    return ErrorBar(kind, time, tuple(_syntax.read(g) for g in group), name, by, text, matrix, options)


def checked_dispersion(formula: Terms) -> Terms:
    """The formula of a linear model's log φ.

    Raises:
        FormulaError: it has random effects, or an offset.
    """
    if formula.bars:
        raise FormulaError(
            "dispersion= of a linear mixed model takes no random effects: glmm(formula, data, 'gaussian', "
            f"dispersion='{formula}') does, by maximum likelihood"
        )
    if formula.offsets:
        known = formula.offsets[0]
        raise FormulaError(
            f"dispersion= of a linear mixed model takes no offset({known}): a part of log φ that is known is a weight, "
            f"so name the column exp(-({known})) in weights=, times the weights that there are"
        )
    return formula


def _time(left: Expr, parts: Parts) -> Expr | None:
    """The time of ``residual``: what stands there, without the "0 +" of a random-effects term; None for 1."""
    if isinstance(left, Binary) and left.op == "+":
        sides = (left.left, left.right)
        rest = [side for side in sides if not (isinstance(side, Number) and side.value == 0)]
        if len(rest) == 1:
            return _time(rest[0], parts)
    if isinstance(left, Number) and left.value == 1:
        return None
    if isinstance(left, Name | Call | Paren) and not any(is_offset(node) for node in _syntax.walk(left)):
        return left.arg if isinstance(left, Paren) else left
    raise parts.error(
        f"on the left of the bar of residual stands the time alone, a factor or a number, or 1 for the order of the "
        f"rows, not '{left}'", left)  # fmt: skip
