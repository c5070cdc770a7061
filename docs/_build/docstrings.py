"""Examples in docstrings, lines of ``>>>`` below the prose, become code of the reference pages."""

import re

import griffe

EXAMPLE = re.compile(r"((?:^[ \t]*(?:>>>|\.\.\.) .*\n?)(?:^[ \t]*\S.*\n?)*)", re.M)


class Examples(griffe.Extension):
    """Puts the lines of each example into a fence, which Markdown takes for a quotation otherwise."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring and "Example" not in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    return EXAMPLE.sub(lambda m: f"\n```pycon\n{m[1].rstrip()}\n```\n", text)
