"""Compiled programs: options that a version does not know, and a store that stays bounded."""

import jax
import numpy as np
import pytest

import jaxmm as mm
from jaxmm import _compiled, _context
from jaxmm._compiled import Elementwise, Program, bucket


@pytest.fixture
def small_store(monkeypatch):
    """A store of its own, of three programs."""
    store = _compiled._Store(3)
    monkeypatch.setattr(_compiled, "STORE", store)
    return store


@pytest.fixture
def poisson_table():
    rng = np.random.default_rng(3)
    return {"y": rng.poisson(2.0, 48), "g": np.arange(48) % 8, "x": rng.normal(size=48)}


# ---------------------------------------------------------------- options
def test_options_that_this_version_does_not_know_stop_no_fit(monkeypatch, small_store, poisson_table):
    monkeypatch.setattr(_compiled, "QUICK", {"xla_no_such_option": True})
    _compiled.quick_options.cache_clear()
    try:
        assert _compiled.quick_options() == {}
        assert mm.glmm("y ~ x + (1 | g)", poisson_table, "poisson").converged
        model = mm.Model.from_formula("y ~ x + (1 | g)", poisson_table, "poisson")
        assert mm.fit_many(model, np.tile(poisson_table["y"], (2, 1)), progress=False).converged.all()
    finally:
        _compiled.quick_options.cache_clear()


def test_options_are_asked_for_once(programs):
    _compiled.quick_options()
    programs.clear()
    assert _compiled.quick_options() in ({}, _compiled.QUICK)
    assert programs == []


def test_a_version_without_the_private_setting(monkeypatch, sleepstudy):
    monkeypatch.setattr(_context, "_min_compile_time", None)
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    assert fit.loglik == pytest.approx(-871.8141359790, abs=1e-8)


# ---------------------------------------------------------------- the store
def test_the_least_recently_used_program_goes(small_store):
    double = Program(lambda x: 2 * x)
    bound = {n: double.bind(np.zeros(n)) for n in (1, 2, 3)}
    assert double.bind(np.zeros(1)) is bound[1]
    double.bind(np.zeros(4))
    assert len(small_store.kept) == 3
    assert double.bind(np.zeros(1)) is bound[1]
    assert double.bind(np.zeros(2)) is not bound[2]
    np.testing.assert_array_equal(bound[2](np.ones(2)), 2.0)  # who holds one may go on with it


def test_static_arguments_types_and_structures_are_told_apart(small_store):
    power = Program(lambda x, k: x["a"] ** k, (1,))
    first = power.bind({"a": np.zeros(2)}, 2)
    assert power.bind({"a": np.ones(2)}, 2) is first
    assert power.bind({"a": np.zeros(2)}, 3) is not first
    assert power.bind({"a": np.zeros(2, np.float32)}, 2) is not first
    np.testing.assert_array_equal(power({"a": np.full(2, 3.0)}, 2), 9.0)


def test_what_goes_is_freed(small_store):
    """A program that is dropped gives its memory maps back."""
    import os
    from pathlib import Path

    if not Path("/proc/self/maps").exists():
        pytest.skip("there is no count of memory maps here")

    def maps() -> int:
        return len(Path(f"/proc/{os.getpid()}/maps").read_text().splitlines())

    def chain(x):
        for _ in range(6):
            x = jax.numpy.cumsum(jax.numpy.sin(x)) @ jax.numpy.outer(x, x)
        return x

    program = Program(chain)
    counts = []
    for n in range(2, 22):
        program(np.ones(n, np.float32))
        counts.append(maps())
    each = counts[1] - counts[0]
    assert max(counts[5:]) - counts[4] < 4 * max(each, 5)


def test_different_models_share_the_store(small_store, poisson_table):
    sizes = []
    for n in (40, 44, 48):
        table = {name: column[:n] for name, column in poisson_table.items()}
        mm.glmm("y ~ x + (1 | g)", table, "poisson").summary()
        sizes.append(len(small_store.kept))
    assert max(sizes) <= 3


# ---------------------------------------------------------------- lengths
def test_buckets_hold_what_they_must_and_little_more():
    for n in (1, 15, 16, 17, 100, 1000, 65_536, 65_537, 10**6):
        assert n <= bucket(n) <= max(n + 32, (1.25 if n < 4096 else 1.125) * n)
    assert len({bucket(n) for n in range(1, 1001)}) < 25


def test_functions_element_by_element_share_programs(programs):
    scaled = Elementwise(lambda factor, x, y: factor * x + y)
    x = np.arange(110.0)
    np.testing.assert_array_equal(scaled(2.0, x, 1.0), 2 * x + 1)
    programs.clear()
    np.testing.assert_array_equal(
        scaled(2.0, x[:100].reshape(20, 5), x[:100].reshape(20, 5)), 3 * x[:100].reshape(20, 5)
    )
    assert programs == []
    assert scaled(2.0, np.zeros((0,)), np.zeros((0,))).shape == (0,)
