"""What a batch compiles: nothing for other responses, another number of them, or other missing values."""

import threading

import jax
import numpy as np
import pytest

import jaxmm as mm
from jaxmm import costs
from jaxmm.batch import width

WHEN_DUE = ("jit(_refill)", "jit(_again)")  # small ones, compiled when a lane is first handed on or searched once more


@pytest.fixture
def compiled():
    """The programs that were compiled by any thread that the test has started, and by its own."""
    events: list[str] = []
    before = {t.ident for t in threading.enumerate()} - {threading.get_ident()}

    def listen(event, duration, **about):
        name = about.get("fun_name", event)
        if "backend_compile" in event and name not in WHEN_DUE and threading.get_ident() not in before:
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def responses(n, key, share):
    rng = np.random.default_rng(key)
    g = np.arange(60) % 10
    Y = rng.normal(size=(n, 10))[:, g] + rng.normal(size=(n, 60))
    if share:
        Y[rng.random(Y.shape) < share] = np.nan
    return Y


@pytest.fixture(scope="module", params=["gaussian", "poisson"])
def model(request):
    table = {"y": np.arange(60) % 7, "x": np.sin(np.arange(60)), "g": np.arange(60) % 10}
    return mm.Model.from_formula("y ~ x + (1 | g)", table, request.param)


def fits(model, Y):
    Y = Y if model.likelihood.exact else np.where(np.isnan(Y), Y, np.round(np.exp(np.clip(Y, -2, 2))))
    return mm.fit_many(model, Y, progress=False)


def test_nothing_is_compiled_for_other_responses_numbers_or_patterns(model, compiled):
    fits(model, responses(70, 1, 0.0))
    fits(model, responses(70, 2, 0.02))
    assert compiled
    compiled.clear()
    for n, key, share in ((70, 3, 0.0), (70, 4, 0.02), (23, 5, 0.05), (130, 6, 0.3)):
        found = fits(model, responses(n, key, share))
        assert len(found) == n and found.converged.mean() > 0.9
    assert compiled == []


@pytest.mark.usefixtures("few_lanes_singly")
def test_nor_where_lanes_are_searched_one_by_one(model, compiled):
    fits(model, responses(3, 1, 0.0))
    fits(model, responses(3, 2, 0.1))
    compiled.clear()
    for n, key, share in ((3, 3, 0.0), (5, 4, 0.1)):
        fits(model, responses(n, key, share))
    assert compiled == []


def test_patterns_that_many_lanes_share_compile_once_for_all(monkeypatch, compiled):
    """Arrays of a pattern have the shapes of any other."""
    monkeypatch.setattr(costs, "PATTERN_WORK", 1)
    table = {"y": np.arange(60) % 7, "x": np.sin(np.arange(60)), "g": np.arange(60) % 10}
    linear = mm.Model.from_formula("y ~ x + (1 | g)", table)

    def of_patterns(key, *rows):
        Y = responses(6 * len(rows), key, 0.0)
        for k, gone in enumerate(rows):
            Y[6 * k : 6 * (k + 1), gone] = np.nan
        return Y

    mm.fit_many(linear, of_patterns(1, [0, 1], [5]), progress=False)
    compiled.clear()
    found = mm.fit_many(linear, of_patterns(2, [3, 8], [7, 9, 20], [30]), progress=False)
    assert compiled == [] and found.converged.all()


def test_few_widths_for_any_number_of_lanes():
    widths = {width._on_cpu(1000, 500, n, 2) for n in (None, *range(1, 50_000, 97))}
    assert widths == set(costs.WANTED_WIDTHS)
    assert width._on_cpu(costs.CACHE_BYTES // 100, 500, 10**6, 2) == 64
