"""LaTeX in the elements that Arithmatex makes of $...$ and $$...$$ -> MathML, which browsers draw without a script.

MkDocs calls ``on_page_content``.
"""

import html
import logging
import re

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.formulas")

MATHS = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)

THIN = '<mspace width="0.17em" />'  # about the name of a function, which MathML itself sets close


def on_page_content(content, page, config, files):
    try:
        return with_mathml(content)
    except ValueError as error:
        log.error("%s: %s", page.file.src_uri, error)
        return content


def with_mathml(content: str) -> str:
    """The page with its formulas drawn.

    Raises:
        ValueError: a formula with a command that is not known.
    """
    return MATHS.sub(_mathml, content)


def _mathml(match: re.Match) -> str:
    latex = html.unescape(match[3]).strip()
    made = convert(latex.replace("{aligned}", "{align*}"), display="block" if match[2] == "[" else "inline")
    if unknown := re.search(r"\\[A-Za-z]+|<mi>&</mi>", made):
        raise ValueError(f"{unknown[0]} is not known to latex2mathml, in the formula {latex}")
    made = made.replace('<mo stretchy="false">&#x0007C;</mo>', '<mo stretchy="false" lspace="0" rspace="0">|</mo>')
    made = re.sub(r"(?<=</m[insu]>)<mi>\w{2,}</mi>", rf"{THIN}\g<0>", made)
    made = re.sub(r"<mi>\w{2,}</mi>(?!<mo)", rf"\g<0>{THIN}", made)
    return f'<{match[1]} class="formula">{made}</{match[1]}>'
