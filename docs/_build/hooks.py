"""A page of Markdown -> the page with what its Python cells print, draw and return below them.

A fence that opens with ```python is a cell; the cells of a page run in order in a kernel of their own, before the site is
built. What else may stand on that line, as in Jupytext's Markdown notebooks:

    tags=["raises-exception"]   the cell is meant to raise: its message is shown
    tags=["remove-cell"]        runs and is not shown: assertions of the numbers that stand in the text
    tags=["remove-input"]       only what comes of it is shown
    alt="..."                   what its picture shows, for those who do not see it

MkDocs calls the functions that begin with ``on_``.
"""

import base64
import hashlib
import html
import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import nbclient
import nbformat
from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.hooks.cells")

KERNELS = 2  # at a time
LONGEST = 300  # seconds that a cell may take

CELL = re.compile(r"^```python[ \t]*([^\n`]*)\n(.*?)^```[ \t]*$\n?", re.M | re.S)
NOT_RUN = re.compile(r"^[ \t>]+```python", re.M)
TAGS = ("raises-exception", "remove-cell", "remove-input")

# pictures twice as fine as shown; warnings without the paths of this machine, in the order of the rest
SETTING_UP = """
%matplotlib inline
%config InlineBackend.figure_formats = ["retina"]
import warnings as _warnings
_warnings.showwarning = lambda message, category, *_, **__: print(f"{category.__name__}: {message}")
"""


class Executed(NamedTuple):
    text: str
    pictures: dict[str, bytes]  # by file name, beside the page


class Failed(Exception):
    """A cell of a page."""


_done: dict[str, Executed] = {}  # by page and content, so that `mkdocs serve` runs what has changed


# ---------------------------------------------------------------- events of MkDocs
def on_files(files, config):
    """All pages that have cells are run, and their pictures become files of the site."""
    pages = {f.src_uri: f.content_string for f in files.documentation_pages()}
    pages = {uri: text for uri, text in pages.items() if CELL.search(text) or NOT_RUN.search(text)}
    root = Path(config.config_file_path).parent
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / ".jax_cache"))  # of the kernels, which inherit it
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    began = time.perf_counter()
    with ThreadPoolExecutor(KERNELS) as pool:
        results = list(pool.map(_execute_or_say, pages, pages.values()))
    for uri, result in zip(pages, results, strict=True):
        for name, content in result.pictures.items() if result else ():
            files.append(File.generated(config, str(PurePosixPath(uri).with_name(name)), content=content))
    log.info("%d pages with cells run in %.0f s", len(pages), time.perf_counter() - began)
    return files


def on_page_markdown(markdown, page, config, files):
    done = _done.get(_key(page.file.src_uri, page.file.content_string))
    return _without_front_matter(done.text) if done else markdown


# ---------------------------------------------------------------- cells
def _key(uri: str, text: str) -> str:
    return hashlib.sha256(f"{uri}\0{text}".encode()).hexdigest()


def _execute_or_say(uri: str, text: str) -> Executed | None:
    """None where a cell fails, which is logged: ``--strict`` ends with that, ``serve`` waits for the next version."""
    key = _key(uri, text)
    if key not in _done:
        began = time.perf_counter()
        try:
            _done[key] = execute(text, PurePosixPath(uri).stem)
        except Failed as failure:
            log.error("%s: %s", uri, failure)
            return None
        log.info("%5.1f s  %s", time.perf_counter() - began, uri)
    return _done[key]


def _without_front_matter(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)


def execute(text: str, name: str) -> Executed:
    """The page with its outputs; pictures are called ``<name>-<number>.png``.

    Raises:
        Failed: the first cell that raises, or that is on the page and would not be run.
    """
    if indented := NOT_RUN.search(text):
        line = text[: indented.end()].count("\n") + 1
        raise Failed(f"line {line}: a Python cell must begin at the start of the line to be run")
    matches = list(CELL.finditer(text))
    options = [_options(m[1]) for m in matches]
    cells = [nbformat.v4.new_code_cell(SETTING_UP)]
    cells += [
        nbformat.v4.new_code_cell(m[2].rstrip(), metadata={"tags": o.get("tags", [])})
        for m, o in zip(matches, options, strict=True)
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    try:
        quiet = ["--log-level=ERROR"]
        nbclient.NotebookClient(notebook, timeout=LONGEST, kernel_name="python3", extra_arguments=quiet).execute()
    except nbclient.exceptions.CellExecutionError as error:
        *_, last = (c for c in cells if any(o.output_type == "error" for o in c.outputs))  # the run ends there
        raise Failed(f"a cell fails:\n\n{last.source}\n\n{error.ename}: {error.evalue}") from error
    except (nbclient.exceptions.CellTimeoutError, nbclient.exceptions.DeadKernelError) as error:
        raise Failed(str(error)) from error
    pictures: dict[str, bytes] = {}
    pieces, end = [], 0
    for match, option, cell in zip(matches, options, cells[1:], strict=True):
        pieces.append(text[end : match.start()])
        end = match.end()
        pieces.append(_shown(cell, option, name, pictures))
    return Executed("".join([*pieces, text[end:]]), pictures)


def _options(line: str) -> dict:
    """What stands behind ```python: names with values in JSON."""
    found, rest = {}, line.strip()
    while rest:
        match = re.match(r"(tags|alt)=", rest)
        if match is None:
            raise Failed(f'not understood behind ```python: {rest!r}; there may be tags=[...] and alt="..."')
        found[match[1]], length = json.JSONDecoder().raw_decode(rest, match.end())
        rest = rest[length:].strip()
    if unknown := set(found.get("tags", ())) - set(TAGS):
        raise Failed(f"unknown tags {sorted(unknown)}; there are {', '.join(TAGS)}")
    return found


def _shown(cell, option: dict, name: str, pictures: dict[str, bytes]) -> str:
    tags = option.get("tags", ())
    raised = any(o.output_type == "error" for o in cell.outputs)
    if "raises-exception" in tags and not raised:
        raise Failed(f"a cell is meant to raise and does not:\n\n{cell.source}")
    if "remove-cell" in tags:
        return ""
    code = "" if "remove-input" in tags else f"```python\n{cell.source}\n```\n"
    return code + "".join(_output(o, option.get("alt"), name, pictures) for o in cell.outputs)


def _output(output, alt: str | None, name: str, pictures: dict[str, bytes]) -> str:
    if output.output_type == "error":
        return _text(f"{output.ename}: {output.evalue}")
    if output.output_type == "stream":  # what goes to stderr is for who waits: bars, notes while something compiles
        return _text(output.text) if output.name == "stdout" else ""
    if "image/png" in output.data:
        file = f"{name}-{len(pictures) + 1}.png"
        pictures[file] = base64.b64decode(output.data["image/png"])
        width = output.get("metadata", {}).get("image/png", {}).get("width", 600)
        alt = html.escape(alt or "Picture drawn by the code above")
        return f'\n![{alt}]({file}){{ .output width="{width}" loading=lazy }}\n'
    if "text/markdown" in output.data:
        return f"\n{output.data['text/markdown']}\n\n"
    if "text/html" in output.data:
        table = re.sub(r"<style.*?</style>", "", output.data["text/html"], flags=re.S)
        return f'\n<div class="output">\n{_aligned(table).strip()}\n</div>\n'
    return _text(output.data["text/plain"])


def _aligned(table: str) -> str:
    """Columns of words of a data frame get a class, "words-2" for the second from the right: pandas puts all to the right."""
    rows = [re.findall(r"<td>(.*?)</td>", row, re.S)[::-1] for row in re.findall(r"<tr>.*?</tr>", table, re.S)]
    words = {j + 1 for row in rows for j, cell in enumerate(row) if re.match(r"(?!NaN|None|inf|<NA>)[^\W\d]", cell)}
    return table.replace(
        'class="dataframe"', f'class="{" ".join(["dataframe", *(f"words-{j}" for j in sorted(words))])}"'
    )


def _text(text: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"\n{fence} {{ .text .output }}\n{text.rstrip()}\n{fence}\n"
