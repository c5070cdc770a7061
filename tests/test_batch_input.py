"""What fit_many, bootstrap, study and power cannot work with: each error names the argument and the remedy."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmm as mm
from jaxmm.batch import interrupts
from jaxmm.batch.setup import scaled_start
from jaxmm.optimize import Status
from jaxmm.sources.responses import ArrayResponses, Responses, Varying
from jaxmm.sources.truth import as_truth
from jaxmm.studies.power import power_curve

KEY = jax.random.key(6)
TRUTH = {"fixef": [250.0, 10.0], "sd": {"Subject": [25.0, 6.0]}, "sigma": 25.0}
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def Y(sleep_reml):
    return sleep_reml.simulate(6, key=jax.random.key(1))


# ---------------------------------------------------------------- responses out of scale, starts far off
@pytest.mark.parametrize("scale", [1e200, 1e-158, 1e-165, 1e-200])
def test_a_response_out_of_scale_is_not_called_constant(sleep_reml, Y, scale):
    Y = Y.copy()
    Y[1], Y[2] = scale * Y[1], 0.0
    batch = mm.fit_many(sleep_reml, Y, **QUIET)
    assert batch.status.tolist() == [0, Status.NOT_FINITE, Status.NO_VARIATION, 0, 0, 0]
    assert "rescale the response" in repr(batch[1])


@pytest.mark.parametrize("scale", [1e-100, 1e-60, 1e140])
def test_a_response_on_an_unusual_scale_is_fitted(sleep_reml, Y, scale):
    usual, unusual = (mm.fit_many(sleep_reml, c * Y, **QUIET) for c in (1.0, scale))
    assert unusual.converged.all()
    np.testing.assert_allclose(unusual.fixef / scale, usual.fixef, rtol=1e-6)


def test_a_start_that_is_far_off_is_hinted_at(sleep_reml, Y):
    batch = mm.fit_many(sleep_reml, Y, start=[1e9, 0.0, 1e9], **QUIET)
    assert np.all(batch.status == Status.NOT_FINITE)
    assert "start=" in repr(batch)


def test_no_explanation_speaks_of_what_a_batch_has_not():
    for status in Status:
        assert "fit." not in status.message


# ---------------------------------------------------------------- what responses may be
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda Y: "y.npy", r"np\.load\('y\.npy', mmap_mode='r'\)"),
        (lambda Y: Path("y.npy"), r"np\.load\('y\.npy', mmap_mode='r'\)"),
        (lambda Y: lambda key: key, r"Generated\(function, n, key\)"),
        (lambda Y: [Y[0], Y[1][:-1]], r"lengths 179, 180: .*180 numbers"),
        (lambda Y: [Y, Y[:2]], r"arrays of several responses.*iter\(Y\)"),
        (lambda Y: [Y[:2], Y[2:4]], r"arrays of several responses.*iter\(Y\)"),
        (lambda Y: {"a": Y[0]}, "Y is a dict"),
        (lambda Y: {1.0, 2.0}, "Y is a set"),
        (lambda Y: None, "Y is a NoneType"),
        (lambda Y: [["a"] * 180], "Y holds text"),
        (lambda Y: iter(["abc"]), "the iterator Y gave a str of no numbers"),
    ],
)
def test_what_is_no_array_of_responses(sleep_reml, Y, make, words):
    with pytest.raises((TypeError, ValueError), match=words) as e:
        mm.fit_many(sleep_reml, make(Y), **QUIET)
    assert "Y" in str(e.value)


def test_a_function_that_ignores_its_key(sleep_reml):
    """A NumPy generator is called once, when the function is traced, and never again."""
    rng = np.random.default_rng(0)
    for function in (lambda key: jnp.asarray(rng.normal(size=180)), lambda key: jnp.arange(180.0)):
        for batch in (None, 2):
            with pytest.raises(ValueError, match=r"function gives .* same response for every key.*jax\.random"):
                mm.fit_many(sleep_reml, mm.Generated(function, 5, KEY), batch=batch, **QUIET)


def test_responses_that_may_well_be_equal():
    """Rare counts: a few replicates without any, or with the same single one."""
    rare = mm.Generated(lambda key: jax.random.poisson(key, 1e-3, (4,)), 500, KEY)
    assert not np.any(rare.block(0, 3).y)
    single = mm.Generated(lambda key: jnp.eye(3)[jax.random.randint(key, (), 0, 3)], 500, KEY)
    for first in range(30):
        assert single.block(first, 2).y.shape == (2, 3)


# ---------------------------------------------------------------- inside a transformation
def test_the_host_loop_cannot_be_traced(sleep_reml, Y):
    def many(y):
        return mm.fit_many(sleep_reml, y, **QUIET).fixef.sum()

    def boot(key):
        return mm.bootstrap(sleep_reml, 3, key=key, **QUIET).fixef.sum()

    def studied(key):
        return mm.study(sleep_reml, None, 3, key=key, **QUIET).batch.fixef.sum()

    def powered(key):
        return mm.power(sleep_reml, n=3, key=key, **QUIET).study.batch.fixef.sum()

    calls = [
        lambda: jax.jit(many)(Y),
        lambda: jax.jit(lambda x: x + many(Y))(1.0),
        lambda: jax.grad(many)(jnp.asarray(Y)),
        lambda: jax.vmap(many)(jnp.asarray(Y)[None]),
        lambda: jax.jit(lambda s: mm.fit_many(sleep_reml, Y, start=s, **QUIET).fixef.sum())(jnp.ones(3)),
        *(lambda f=f: jax.jit(f)(KEY) for f in (boot, studied, powered)),
        *(lambda f=f: jax.jit(lambda x: x + f(KEY))(1.0) for f in (boot, studied, powered)),
        lambda: jax.vmap(lambda key: sleep_reml.simulate(1, key=key))(jax.random.split(KEY, 2)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"host.*jax\.jit, grad or vmap: call it outside"):
            call()
    with pytest.raises(TypeError, match=r"jaxmm\.estimate\(model\.arrays\)"):
        jax.jit(many)(Y)


# ---------------------------------------------------------------- keys, settings, starts
def test_a_key_of_numbers(sleep_reml):
    raw = np.array([0, 6], np.uint32)
    found = [mm.Simulated(sleep_reml, TRUTH, 2, key).block(0, 2).y for key in (KEY, raw, jnp.asarray(raw))]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_array_equal(sleep_reml.simulate(2, key=raw), sleep_reml.simulate(2, key=KEY))
    for wrong in (np.array([0, 6]), np.zeros((1, 2), np.uint32), np.array([6], np.uint32)):
        with pytest.raises(TypeError, match="key must be a seed"):
            mm.Simulated(sleep_reml, TRUTH, 2, wrong)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_iterations": 2.5}, "max_iterations must be a whole number.*2.5"),
        ({"max_iterations": True}, "max_iterations must be a whole number.*True"),
        ({"max_iterations": 0}, "max_iterations must be a whole number of at least 1, not 0"),
        ({"newton_limit": 1.5}, "newton_limit must be a whole number.*1.5"),
        ({"newton_limit": -1}, "newton_limit must be a whole number.*-1"),
        ({"tolerance": "1e-9"}, "tolerance must be a positive number, not '1e-9'"),
        ({"tolerance": float("nan")}, "tolerance must be a positive number, not nan"),
    ],
)
def test_settings(settings, words):
    with pytest.raises(ValueError, match=f"control: {words}"):
        mm.Control(**settings)
    assert mm.Control(max_iterations=np.int64(3), newton_limit=0).max_iterations == 3


def test_a_start_as_a_mapping(sleep_reml):
    truth = as_truth(sleep_reml.model, TRUTH)
    np.testing.assert_array_equal(scaled_start(sleep_reml.model, TRUTH), scaled_start(sleep_reml.model, truth))
    with pytest.raises(ValueError, match="start: sd lacks the grouping factor 'Subject'"):
        mm.fit_many(sleep_reml, np.zeros((1, 180)), start=TRUTH | {"sd": {}}, **QUIET)
    with pytest.raises(ValueError, match=r"start: .* has no key 'beta'"):
        mm.fit_many(sleep_reml, np.zeros((1, 180)), start={"beta": 1.0}, **QUIET)


def test_the_number_of_nodes_is_one_for_all():
    cbpp = mm.datasets.load("cbpp")
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    model = mm.Model.from_formula(formula, cbpp, "binomial", n_agq="auto")
    truth = {"fixef": [-1.4, -1.0, -1.1, -1.6], "sd": 0.6}
    fit = mm.glmm(formula, cbpp, "binomial", n_agq="auto")
    calls = [
        lambda: mm.fit_many(model, mm.Simulated(model, truth, 3, KEY), **QUIET),
        lambda: mm.bootstrap(fit, 3, key=KEY, **QUIET),
        lambda: mm.study(model, truth, 3, key=KEY, **QUIET),
        lambda: mm.power(model, truth, 3, key=KEY, **QUIET),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"n_agq='auto' .*one number for all.*n_agq=\d.*fit\.n_agq"):
            call()


# ---------------------------------------------------------------- folders
@pytest.mark.parametrize("out", [3, True, b"folder"])
def test_out_is_the_path_of_a_folder(sleep_reml, Y, out):
    calls = [
        lambda: mm.fit_many(sleep_reml, Y, out=out, **QUIET),
        lambda: mm.bootstrap(sleep_reml, 3, key=KEY, out=out, **QUIET),
        lambda: mm.study(sleep_reml, None, 3, key=KEY, out=out, **QUIET),
        lambda: power_curve(sleep_reml, n=3, key=KEY, along={"Subject": 4}, out=out, **QUIET),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"out must be the path of a folder, not {out!r}"):
            call()


class Removing(ArrayResponses):
    """Rows whose results folder goes away while they are read."""

    folder: Path

    def block(self, first: int, size: int) -> Varying:
        shutil.rmtree(self.folder, ignore_errors=True)
        return super().block(first, size)


def test_a_folder_that_is_removed_during_the_run(sleep_reml, Y, tmp_path):
    pytest.importorskip("pyarrow")
    source = Removing(Y)
    source.folder = tmp_path / "gone"
    with pytest.raises(FileNotFoundError, match=r"gone' was removed or moved while the run wrote to it.*again"):
        mm.fit_many(sleep_reml, source, out=source.folder, **QUIET)


# ---------------------------------------------------------------- an end by the user
@pytest.fixture
def ctrl_c():
    """SIGINT as in a terminal: a shell lets what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(ArrayResponses):
    """Rows during whose reading the user presses Ctrl-C, once."""

    calls, lock = 0, threading.Lock()

    def block(self, first: int, size: int) -> Varying:
        with self.lock:
            self.calls += 1
        if self.calls == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return super().block(first, size)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_ends_the_run_at_once(sleep_reml, Y, tmp_path, ctrl_c):
    """Not when the running parts are done: each of them reads its responses 32 times."""
    pytest.importorskip("pyarrow")
    rows = np.tile(Y, (86, 1))[:512]
    mm.fit_many(sleep_reml, Y, batch=4, **QUIET)  # compiled before
    source = Interrupted(rows)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        mm.fit_many(sleep_reml, source, batch=4, out=tmp_path, **QUIET)
    assert source.calls < 30, (source.calls, time.monotonic() - before)
    batch = mm.fit_many(sleep_reml, rows, batch=64, out=tmp_path, **QUIET)
    assert len(batch) == 512 and batch.converged.all()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_that_is_swallowed_is_remembered(ctrl_c):
    """As a callback of the garbage collector swallows it."""
    with interrupts.remembered() as check:
        check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a program's own
    with interrupts.remembered() as check:
        signal.raise_signal(signal.SIGINT)
        check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# ---------------------------------------------------------------- bootstrap, study, power
def test_a_statistic_without_a_value(sleep_reml):
    boot = mm.bootstrap(sleep_reml, 6, key=KEY, statistic=lambda f: np.nan if f.sigma < 25 else f.sigma, **QUIET)
    lacking = int(np.sum(boot.sigma < 25))
    assert 0 < lacking < 6
    with pytest.warns(UserWarning, match=f"the statistic is NaN for {lacking} of 6 replicates that converged"):
        _ = boot.se
    assert f"NaN for {lacking} of 6" in repr(boot)
    assert "NaN for" not in repr(mm.bootstrap(sleep_reml, 3, key=KEY, **QUIET))


def test_a_truth_without_residuals(sleep_reml):
    truth = TRUTH | {"sigma": 0.0}
    for call in (
        lambda: mm.study(sleep_reml.model, truth, 3, key=KEY, **QUIET),
        lambda: mm.power(sleep_reml.model, truth, 3, key=KEY, **QUIET),
        lambda: power_curve(sleep_reml.model, truth, 3, key=KEY, along={"Subject": 4}, **QUIET),
    ):
        with pytest.raises(ValueError, match=r"truth has sigma = 0: .*give a residual standard deviation above 0"):
            call()


def test_nothing_is_tested(sleep_reml):
    with pytest.raises(ValueError, match=r"test=\[\] names nothing to test"):
        mm.power(sleep_reml, n=3, key=KEY, test=[], **QUIET)
    null = mm.lmm("Reaction ~ 1 + (1 | Subject)", mm.datasets.load("sleepstudy"))
    with pytest.raises(ValueError, match="no coefficient but the intercept"):
        mm.power(null, n=3, key=KEY, **QUIET)


# ---------------------------------------------------------------- what lanes have of their own
class Wide(ArrayResponses):
    """Rows that come with a design each, and with statistics of it."""

    varies = frozenset({"y", "X", "statistics"})

    def block(self, first: int, size: int) -> Varying:
        own = super().block(first, size)
        return own._replace(X=np.ones((*own.y.shape, 2)))


class Careless(Wide):
    varies = frozenset({"y"})


class Silent(ArrayResponses):
    def block(self, first: int, size: int) -> Varying:
        return Varying()


def test_what_no_problem_accepts(sleep_reml, Y):
    with pytest.raises(ValueError, match=r"may have X, Z, copies, .*, y of their own, not X, statistics.*one by one"):
        mm.fit_many(sleep_reml, Wide(Y), **QUIET)
    with pytest.raises(ValueError, match=r"Careless gives lanes X of their own: say so in Careless\.varies"):
        mm.fit_many(sleep_reml, Careless(Y), **QUIET)
    with pytest.raises(ValueError, match="Silent gives lanes no responses"):
        mm.fit_many(sleep_reml, Silent(Y), **QUIET)


def test_a_source_says_what_it_is(sleep_reml, Y):
    class Bare:
        n = 6

        def identity(self):
            return {}

    with pytest.raises(TypeError, match=r"Bare is no source of responses: .*subclass of jaxmm\.sources"):
        mm.fit_many(sleep_reml, Bare(), **QUIET)
    for kind in (mm.Simulated, mm.Generated, mm.DirectlySimulated, ArrayResponses):
        assert Responses in kind.__mro__ and kind.varies <= set(Varying._fields)
