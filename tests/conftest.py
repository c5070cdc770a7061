"""Shared settings: a persistent compilation cache, fitted models shared by the tests, optional reference fits."""

import os
from pathlib import Path

# set before jax is imported: programs compiled by one test, or one worker, serve the others
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

LARGE = 3 << 30  # bytes of the process from which compiled programs are let go


@pytest.fixture(scope="module", autouse=True)
def small_process():
    """Lets compiled programs go between modules once the process is large: the cache on disk still has them."""
    yield
    memory = Path("/proc/self/statm")
    if memory.exists() and int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > LARGE:
        jax.clear_caches()


@pytest.fixture
def x64():
    """64-bit JAX for tests of the second layer."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def programs():
    """The programs traced or compiled since the last look."""
    events: list[str] = []

    def listen(event, duration, **_):
        if "jaxpr_trace" in event or "backend_compile" in event:
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
