"""Shared settings: what runs by default, a persistent compilation cache, fitted models shared by the tests."""

import gc
import json
import os
import threading
from importlib.metadata import version
from pathlib import Path

# set before jax is imported: programs compiled by one test, or one worker, serve the others
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# most programs run once or twice here, and the compiler took half of the time; XLA_FLAGS="" has all as users do
if version("jaxlib").startswith("0.10."):  # an option that is not known ends the process
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_parallel_codegen_split_count=1",
    )
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm import _compiled, costs

LISTED = {
    mark: frozenset(Path(__file__).with_name(name).read_text().splitlines())
    for mark, name in (("dear", "dear.txt"), ("slow", "rare.txt"))
}
PRICES = {price: getattr(costs, price) for price in ("LINEAR", "GENERALISED")}
DEFAULT = "not slow and not dear"
LARGE = 3 << 29  # bytes of the process from which compiled programs are let go

# tracing makes many objects, and looking through all that live after every 700 new ones took a twentieth of the time
gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    names = {item.nodeid.removeprefix("tests/"): item for item in items}
    for mark, listed in LISTED.items():
        for name in listed & names.keys():
            names[name].add_marker(getattr(pytest.mark, mark))
    if not any("::" in argument for argument in config.args):  # of a file that is collected there are all tests
        files = {name.split("::")[0] for name in names}
        gone = sorted(n for n in set().union(*LISTED.values()) - names.keys() if n.split("::")[0] in files)
        if gone:
            raise pytest.UsageError(f"tests are listed that are not there: {gone[:5]}; see choose_dear.py")


def pytest_terminal_summary(terminalreporter, config):
    if config.option.markexpr == DEFAULT:
        terminalreporter.section("left out")
        dear = len(LISTED["dear"])
        terminalreporter.line(f"{dear} dear tests, mostly further cases:  python -m pytest -m dear")
        terminalreporter.line("statistical validity, large ones, yet more cases: python -m pytest -m slow")


@pytest.fixture(autouse=True)
def small_process():
    """Lets compiled programs go once the process is large: the cache on disk still has them."""
    yield
    memory = Path("/proc/self/statm")
    if memory.exists() and int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > LARGE:
        _compiled.STORE.clear()
        jax.clear_caches()
        _compiled.give_back()


@pytest.fixture(autouse=True, scope="session")
def lanes_however_few():
    """Tests of batches mean the programs of lanes and have few responses; ``few_lanes_singly`` is as users have it."""
    with pytest.MonkeyPatch.context() as patch:
        for price, real in PRICES.items():
            patch.setattr(costs, price, real._replace(compiled=-1.0, lane=0.0, far=0.0))
        yield


@pytest.fixture
def few_lanes_singly(monkeypatch, lanes_however_few):
    """The choice between lanes and single searches, as users have it."""
    for price, real in PRICES.items():
        monkeypatch.setattr(costs, price, real)


@pytest.fixture
def x64():
    """64-bit JAX for tests of the second layer."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def claim(record_property):
    """Notes what a simulation showed, beside what was claimed and its Monte-Carlo standard error; ``validate.py`` reads
    these notes from the file of ``--junitxml``."""

    def note(what: str, observed: float, stated: float, *, n: int, error: float | None = None):
        if error is None:  # a share of n
            error = (stated * (1 - stated) / n) ** 0.5
        numbers = {"observed": float(observed), "stated": float(stated), "error": float(error), "n": int(n)}
        record_property("claim", json.dumps({"what": what, **numbers}))

    return note


@pytest.fixture
def headless():
    """Pictures are drawn into memory, and closed afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def programs():
    """The programs that the test itself has traced or compiled: other threads may still be at it."""
    events: list[str] = []
    mine = threading.get_ident()

    def listen(event, duration, **_):
        if threading.get_ident() == mine and ("jaxpr_trace" in event or "backend_compile" in event):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def sleepstudy():
    return mm.datasets.load("sleepstudy")


@pytest.fixture(scope="session")
def sleep_reml(sleepstudy):
    return mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)


@pytest.fixture(scope="session")
def sleep_ml(sleepstudy):
    return mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy, reml=False)


@pytest.fixture(scope="session")
def weighted():
    """Two crossed factors, one with two correlated effects; precisions and an offset."""
    rng = np.random.default_rng(8)
    n = 120
    data = pd.DataFrame({"g": np.arange(n) % 12, "h": rng.integers(0, 5, n), "x": rng.normal(size=n)})
    data["w"], data["o"] = rng.uniform(0.5, 3, n), rng.normal(size=n)
    b, c = rng.normal(size=(12, 2)) @ [[1.0, 0.4], [0, 0.8]], rng.normal(size=5)
    data["y"] = (
        2 + data.o + data.x + b[data.g, 0] + b[data.g, 1] * data.x + c[data.h] + rng.normal(size=n) / data.w**0.5
    )
    return mm.lmm("y ~ x + (x | g) + (1 | h)", data, weights="w", offset="o")
