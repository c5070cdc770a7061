"""R's formula text -> an expression tree, and the tree back to R's text.

`read("y ~ x + (1 | g)")` gives a tree of the nodes below, with R's precedence of operators; `str(node)`
writes it as R's `deparse` does, which is how the columns of a model matrix get their names
(`I(x^2)`, `poly(x, 2)`, `x > 2`). Nothing is evaluated and no name is looked up here.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite


class FormulaError(ValueError):
    """A formula that cannot be read; the message shows where, and the nearest accepted spelling."""

    def __init__(self, message: str, text: str = "", pos: int | None = None):
        if text and pos is not None and pos >= 0:
            message = f"{message}\n    {text}\n    {' ' * pos}^"
        elif text:
            message = f"{message}\n    {text}"
        super().__init__(message)


@dataclass(frozen=True)
class Name:
    """A column, or one of TRUE, FALSE, pi."""

    name: str
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        return self.name if SYNTACTIC.fullmatch(self.name) else f"`{self.name}`"


@dataclass(frozen=True)
class Number:
    value: float
    integer: bool = False
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        return number_text(self.value) + ("L" if self.integer else "")


@dataclass(frozen=True)
class Text:
    value: str
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        return '"' + self.value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Call:
    """`func(args)`; each argument is (keyword or None, expression)."""

    func: str
    args: tuple[tuple[str | None, "Expr"], ...]
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        shown = (str(a) if k is None else f"{k} = {a}" for k, a in self.args)
        return f"{self.func}({', '.join(shown)})"


@dataclass(frozen=True)
class Unary:
    op: str
    arg: "Expr"
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        return f"{self.op}{self.arg}"


@dataclass(frozen=True)
class Binary:
    op: str
    left: "Expr"
    right: "Expr"
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        gap = "" if self.op in _TIGHT else " "
        return f"{self.left}{gap}{self.op}{gap}{self.right}"


@dataclass(frozen=True)
class Paren:
    arg: "Expr"
    pos: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        return f"({self.arg})"


Expr = Name | Number | Text | Call | Unary | Binary | Paren

CONSTANTS = ("TRUE", "FALSE", "pi")
SYNTACTIC = re.compile(r"(?:[^\W\d_]|\.(?![0-9]))[\w.]*|\.")

# R's operators from loose to tight; a unary minus sits between ":" and "^".
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("~",),
    ("|", "||"),
    ("&", "&&"),
    ("!",),
    ("==", "!=", "<", ">", "<=", ">="),
    ("+", "-"),
    ("*", "/"),
    ("%in%", "%%", "%/%"),
    (":",),
)
_STRENGTH = {op: i for i, level in enumerate(_LEVELS) for op in level}
_TIGHT = {"/", ":", "^", "%%", "%/%"}

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?L?)
    |(?P<name>(?:[^\W\d_]|\.(?!\d))[\w.]*(?:::(?:[^\W\d_]|\.)[\w.]*)?)
    |(?P<quoted>`[^`]+`)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<op>%in%|%%|%/%|\|\||\*\*|<=|>=|==|!=|<-|->|&&|[-+*/^:|&!<>~(),=])
    |(?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)

_BAD_TOKEN = {
    "`": "a back-quote is not closed: write `my column`",
    '"': "a text is not closed",
    "'": "a text is not closed",
    "$": "'$' is not part of a formula: name the column alone and pass its table as `data`",
    "@": "'@' is not part of a formula: name the column alone",
    "[": "'[' is not part of a formula: make the column first, then name it",
    "]": "']' is not part of a formula",
    "{": "'{' is not part of a formula: write I(...) around arithmetic",
    "}": "'}' is not part of a formula",
    ";": "';' is not part of a formula: terms are joined by '+'",
    "%": "the operators between percent signs are %in%, %% and %/%",
    "_": "a name cannot start with '_': put it in back-quotes, as in `_x`",
}


@dataclass(frozen=True)
class _Token:
    kind: str  # "number", "name", "quoted", "text", "op" or "end"
    text: str
    pos: int


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def position_text(at: Iterable[float]) -> str:
    """The coordinates of a position, in brackets."""
    return f"({', '.join(number_text(float(x)) for x in at)})"


def number_text(value: float) -> str:
    """A number as R prints it: 15 significant digits, the shorter of fixed and scientific."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}[repr(float(value))]
    for digits in range(1, 16):
        scientific = f"{value:.{digits - 1}e}"
        if float(scientific) == float(f"{value:.14e}"):
            break
    mantissa, exponent = scientific.split("e")
    power = int(exponent)
    fixed = f"{value:.{max(0, len(mantissa.lstrip('-').replace('.', '')) - 1 - power)}f}"
    scientific = f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return fixed if len(fixed) <= len(scientific) else scientific


@lru_cache(maxsize=256)
def read(text: str) -> Expr:
    """The tree of a formula or of a part of one.

    Raises FormulaError for an unknown character, unbalanced brackets or quotes, or a missing operand.
    """
    return _Reader(text).read()


def walk(node: Expr) -> Iterator[Expr]:
    """The node and everything below it, in the order of the text."""
    yield node
    for child in children(node):
        yield from walk(child)


def children(node: Expr) -> tuple[Expr, ...]:
    if isinstance(node, Call):
        return tuple(a for _, a in node.args)
    if isinstance(node, Binary):
        return (node.left, node.right)
    if isinstance(node, Unary | Paren):
        return (node.arg,)
    return ()


def names(node: Expr) -> tuple[str, ...]:
    """The columns that an expression may need, by first appearance (TRUE and FALSE are not columns)."""
    found = (n.name for n in walk(node) if isinstance(n, Name) and n.name not in ("TRUE", "FALSE"))
    return tuple(dict.fromkeys(found))


class _Reader:
    """Precedence climbing over the tokens."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = list(self._tokens())
        self.i = 0

    def error(self, message: str, pos: int) -> FormulaError:
        return FormulaError(message, self.text, pos)

    def _tokens(self) -> Iterator[_Token]:
        for m in _TOKEN.finditer(self.text):
            kind, shown = str(m.lastgroup), m.group()
            if kind == "bad":
                raise self.error(_BAD_TOKEN.get(shown, f"{shown!r} is not part of a formula"), m.start())
            if shown == "**":
                raise self.error("'**' is written '^' in a formula: I(x^2) is the square of x", m.start())
            if shown in ("<-", "->"):
                raise self.error(f"'{shown}' is an assignment; I(x < -1) needs its blank", m.start())
            if kind != "space":
                yield _Token(kind, shown, m.start())
        yield _Token("end", "", len(self.text))

    @property
    def next(self) -> _Token:
        return self.tokens[self.i]

    def take(self) -> _Token:
        token = self.tokens[self.i]
        self.i += 1
        return token

    def read(self) -> Expr:
        tree = self.expression(0)
        if self.next.kind != "end":
            if self.next.text == ")":
                raise self.error("a ')' without its '('", self.next.pos)
            if self.next.text == "=":
                raise self.error("'=' belongs inside a call; the two sides are joined by '~'", self.next.pos)
            raise self.error(f"an operator is missing before '{self.next.text}'{self._blank()}", self.next.pos)
        return tree

    def expression(self, strength: int) -> Expr:
        left = self.prefix()
        while self.next.kind == "op" and _STRENGTH.get(self.next.text, -1) >= strength:
            op = self.take()
            if op.text == "!":
                raise self.error("'!' needs an operator before it", op.pos)
            right = self.expression(_STRENGTH[op.text] + 1)
            left = Binary(op.text, left, right, op.pos)
        return left

    def prefix(self) -> Expr:
        token = self.next
        if token.kind == "op" and token.text in ("-", "+"):
            self.take()
            return Unary(token.text, self.expression(len(_LEVELS)), token.pos)
        if token.kind == "op" and token.text in ("!", "~"):
            self.take()
            return Unary(token.text, self.expression(_STRENGTH[token.text]), token.pos)
        return self.power()

    def power(self) -> Expr:
        base = self.atom()
        if self.next.text == "^" and self.next.kind == "op":
            op = self.take()
            # right-associative, and -1 is allowed as an exponent
            exponent = self.prefix()
            return Binary("^", base, exponent, op.pos)
        return base

    def atom(self) -> Expr:
        token = self.take()
        if token.kind == "number":
            integer = token.text.endswith("L")
            return Number(float(token.text.rstrip("L")), integer, token.pos)
        if token.kind == "text":
            return Text(re.sub(r"\\(.)", r"\1", token.text[1:-1]), token.pos)
        if token.kind == "quoted":
            return Name(token.text[1:-1], token.pos)
        if token.kind == "name":
            if self.next.text == "(" and self.next.kind == "op":
                return self.call(token)
            if "::" in token.text:
                raise self.error(f"'{token.text}' is not a column", token.pos)
            return Name(token.text, token.pos)
        if token.text == "(":
            inner = self.expression(_STRENGTH["|"])
            self.close(token)
            return Paren(inner, token.pos)
        if token.kind == "end":
            before = self.tokens[self.i - 2].text if self.i > 1 else ""
            raise self.error(f"something is missing after '{before}'" if before else "the formula is empty", token.pos)
        raise self.error(f"something is missing before '{token.text}'", token.pos)

    def call(self, func: _Token) -> Expr:
        opening = self.take()
        args: list[tuple[str | None, Expr]] = []
        if self.next.text != ")":
            while True:
                keyword = None
                if self.next.kind == "name" and self.tokens[self.i + 1].text == "=":
                    keyword = self.take().text
                    self.take()
                args.append((keyword, self.expression(_STRENGTH["|"])))
                if self.next.text != ",":
                    break
                self.take()
        self.close(opening)
        return Call(func.text, tuple(args), func.pos)

    def close(self, opening: _Token) -> None:
        if self.next.text == ")":
            self.take()
        elif self.next.kind == "end":
            raise self.error("a '(' is not closed", opening.pos)
        elif self.next.text == "~":
            raise self.error("'~' inside brackets", self.next.pos)
        else:
            raise self.error(f"expected ')' before '{self.next.text}'{self._blank()}", self.next.pos)

    def _blank(self) -> str:
        """Two names side by side may be one with a blank in it."""
        before = self.tokens[self.i - 1]
        if before.kind != "name" or self.next.kind != "name":
            return ""
        return f"; a column's name with a blank in it is put between backticks: `{before.text} {self.next.text}`"
