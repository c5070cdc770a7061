"""The README's code runs and prints what stands beside it; its commands are where .ci/run looks for them."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_code_prints_what_stands_beside_it():
    namespace: dict = {}
    programs, printed = blocks("python"), blocks("text")
    assert len(programs) == len(printed) > 0
    for program, expected in zip(programs, printed, strict=True):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(program, namespace)
        lines = [line.replace("-0.", "0.").split() for line in said.getvalue().splitlines()]
        shown = [line.replace("-0.", "0.").split() for line in expected.splitlines()]
        if shown[-1] == ["..."]:
            shown.pop()
            lines = lines[: len(shown)]
        assert lines == shown


def test_two_commands():
    commands = dict(re.findall(r"^<!-- (\w+) -->\n```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL))
    assert list(commands) == ["run", "test"] and len(blocks("sh")) == 2
    assert all(command.startswith("pip install ") and "\n" not in command for command in commands.values())


def test_files_that_are_named_exist():
    named = re.findall(r"`((?:examples|benchmarks|docs|\.ci)/[\w./]*)`|\]\(([\w./]+)\)", README)
    modules = re.findall(r"`(\w+(?:\.py|/))`", README.partition("## The code")[2])
    assert named and modules
    for path in [a or b for a, b in named]:
        assert (ROOT / path).exists(), path
    for module in modules:
        assert (ROOT / "jaxmm" / module).exists() or (ROOT / module).exists(), module
