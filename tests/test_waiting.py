"""Who waits for the compiler is told, once in full; who does not look is not disturbed."""

import io
import time
import warnings
from types import SimpleNamespace

import pytest

from jaxmm import _waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    shown = Terminal()
    # pytest itself puts another sys.stderr in place between a fixture and its test
    monkeypatch.setattr(_waiting, "sys", SimpleNamespace(stderr=shown, modules={}))
    monkeypatch.setattr(_waiting, "PATIENCE", 0.05)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAXMM_QUIET", raising=False)
    _waiting._told.clear()
    return shown


def slow(x):
    time.sleep(0.3)
    return x + 1


def test_a_long_first_call_is_told(terminal):
    first = _waiting.FirstCall(slow)
    assert first(1) == 2
    said = terminal.getvalue()
    assert "is compiling" in said and said.count("JAX_COMPILATION_CACHE_DIR") == 1
    assert first(2) == 3 and terminal.getvalue() == said  # the second call is no news
    assert _waiting.FirstCall(slow)(1) == 2
    more = terminal.getvalue().removeprefix(said)
    assert "is compiling" in more and "CACHE_DIR" not in more


def test_a_short_one_is_not(terminal):
    assert _waiting.FirstCall(lambda x: x)(1) == 1
    time.sleep(0.1)
    assert terminal.getvalue() == ""


def test_nobody_is_disturbed(terminal, monkeypatch):
    monkeypatch.setenv("JAXMM_QUIET", "1")
    _waiting.FirstCall(slow)(1)
    monkeypatch.delenv("JAXMM_QUIET")
    monkeypatch.setattr(terminal, "isatty", lambda: False, raising=False)
    _waiting.FirstCall(slow)(1)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(_waiting.sys, "stderr", None)  # pythonw has none
    assert _waiting.FirstCall(slow)(1) == 2


def test_an_error_passes(terminal):
    def fails(x):
        raise ValueError("from within")

    with pytest.raises(ValueError, match="from within"):
        _waiting.FirstCall(fails)(1)


def test_the_line_stands_in_the_place_of_a_bar(terminal):
    """A terminal or a notebook that knows carriage returns alone is left with the bar."""
    from tqdm import tqdm

    with tqdm(total=2, file=terminal, ncols=60, leave=True) as bar:
        _waiting.FirstCall(slow)(1)
        bar.update(2)
    said = terminal.getvalue()
    assert "is compiling" in said and "\x1b" not in said
    last = ""
    for piece in said.rstrip("\n").split("\n")[-1].split("\r"):
        last = piece + last[len(piece) :]
    assert last.startswith("100%") and "compiling" not in last


def test_bars_say_nothing_of_widgets():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert issubclass(_waiting.bars(), object)
