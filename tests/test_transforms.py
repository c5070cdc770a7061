"""The second layer as a pure function under JAX's transformations, its dtypes, and the settings it leaves alone."""

import dataclasses
import json
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, derivatives, model, model_of, points, quick_jit
from problems import PROBLEMS

import jaxmm as mm


def cast(tree, dtype):
    """The floating leaves in another precision; indices stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


# ---------------------------------------------------------------- transformations
@pytest.mark.parametrize("name", PROBLEMS)
def test_grad_hessian_jit_and_vmap_on_every_structure(name):
    """All of them at once, the one program of ``helpers.derivatives``: test_objective has the values."""
    value, gradient, hessian = derivatives(name)
    m = model(name).structure.num_theta
    assert value.shape == (3,) and gradient.shape == (3, m) and hessian.shape == (3, m, m)
    assert value.dtype == gradient.dtype == hessian.dtype == np.float64
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))


def test_transformations_one_by_one_agree(x64):
    name = "one factor, q = 2"
    arrays, theta = model(name).arrays, jnp.asarray(points(model(name))[0])
    value, gradient, hessian = (x[0] for x in derivatives(name))
    direction = np.linspace(-1, 1, len(theta))

    @quick_jit
    def all_of_them(theta):
        def f(t):
            return mm.deviance(t, arrays)  # arrays as constants of the program

        return jax.jvp(f, (theta,), (direction,)), jax.grad(f)(theta), jax.hessian(f)(theta)

    (v, slope), g, H = all_of_them(theta)
    close(v, value, 1e-12)
    close(slope, gradient @ direction, 1e-11)
    close(g, gradient, 1e-11)
    close(H, hessian, 1e-10)


def test_a_batch_of_data_sets(x64):
    """vmap over the arrays: the leaves of two responses stacked."""
    p = PROBLEMS["one factor, q = 2"]
    two = [model_of(p, y=y).arrays for y in (p.y, p.y[::-1])]
    theta = points(model(p.name))[0]
    together = quick_jit(jax.vmap(mm.deviance, (None, 0)))(theta, jax.tree.map(lambda *x: jnp.stack(x), *two))
    alone = quick_jit(mm.deviance)
    close(together, [alone(theta, arrays) for arrays in two], 1e-12)


def test_neg2_loglik_is_the_deviance_at_the_profiled_parameters(sleep_ml, x64):
    at = mm.Parameters(sleep_ml.fixef.to_numpy(), sleep_ml.theta, 2 * np.log(sleep_ml.sigma))
    value, gradient = quick_jit(jax.value_and_grad(mm.neg2_loglik))(at, sleep_ml.model.arrays)
    np.testing.assert_allclose(value, sleep_ml.deviance, rtol=1e-13)
    for slope in gradient:
        np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_the_derivative_of_an_estimate_is_that_of_fitting_again(x64):
    """By the data's cross-products, through the implicit function theorem, against two fits."""
    arrays = model("one factor, q = 1").arrays
    rng = np.random.default_rng(0)
    couplings = arrays.couplings
    change = rng.normal(size=couplings.borders[0].shape)

    def estimates(h):
        moved = dataclasses.replace(couplings, borders=(couplings.borders[0] + h * change,))
        found = mm.estimate(dataclasses.replace(arrays, couplings=moved))
        return found.theta, found.beta, found.sigma, found.deviance

    run = quick_jit(lambda h: (estimates(h), jax.jvp(estimates, (h,), (1.0,))[1]))
    (_, slopes), (ahead, _), (behind, _) = run(0.0), run(1e-4), run(-1e-4)
    for slope, a, b in zip(slopes, ahead, behind, strict=True):
        np.testing.assert_allclose(slope, (a - b) / 2e-4, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- precision
@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_arrays_stay_float32(name):
    """Also where JAX would make float64 of a stray constant."""
    arrays, theta = model(name).arrays, points(model(name))[0].astype(np.float32)
    with jax.enable_x64(True):
        value, gradient = jax.eval_shape(jax.value_and_grad(mm.deviance), theta, cast(arrays, "float32"))
    assert value.dtype == gradient.dtype == np.float32


def test_float32_is_the_same_number_to_its_precision():
    name = "weights and offset"
    with jax.enable_x64(True):
        arrays = cast(model(name).arrays, "float32")
    value = quick_jit(mm.deviance)(points(model(name))[0].astype(np.float32), arrays)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, derivatives(name)[0][0], rtol=1e-4)


@pytest.mark.parametrize("function", [mm.deviance, jax.jit(mm.deviance), jax.grad(mm.deviance)])
def test_float64_arrays_need_x64_and_say_so(function):
    m = model("one factor, q = 1")
    assert m.arrays.dtype == np.float64
    with jax.enable_x64(False), pytest.raises(TypeError, match=r"with jax\.enable_x64\(True\)"):
        function(np.ones(1), m.arrays)
    with jax.enable_x64(False), pytest.raises(TypeError, match="float64 but JAX is in 32-bit mode"):
        mm.estimate(m.arrays)


# ---------------------------------------------------------------- the settings of others
PROGRAM = """
import json, os, threading
import numpy as np
import jax, jax.numpy as jnp

def settings():
    return {k: repr(v) for k, v in jax.config.values.items()}

def changed(before):
    now = settings()
    return sorted(k for k in before if now.get(k) != before[k])

report, before, environment = {}, settings(), dict(os.environ)
import jaxmm as mm
report["import"] = changed(before)
data, formula = mm.datasets.load("sleepstudy"), "Reaction ~ Days + (Days | Subject)"
thirds = jax.jit(lambda x: x / 3)
report["before"] = str(thirds(jnp.ones(2)).dtype)
numpy_state = repr(np.random.get_state())
fit = mm.lmm(formula, data)
fit.ranef(), fit.shrinkage(), str(fit), fit.simulate(key=jax.random.key(0))
report["fit"] = changed(before)
report["after"] = str(thirds(jnp.ones(2)).dtype)
report["numpy"] = repr(np.random.get_state()) == numpy_state
report["environment"] = dict(os.environ) == environment

def worker():
    report["thread before"] = str(jnp.ones(1).dtype)
    report["in a thread"] = mm.lmm(formula, data).deviance
    report["thread after"] = str(jnp.ones(1).dtype)

thread = threading.Thread(target=worker)
thread.start(); thread.join()
report["in a float32 program"] = fit.deviance
with jax.enable_x64(True):
    report["in a float64 program"] = mm.lmm(formula, data).deviance
    report["inside"] = str(jnp.ones(1).dtype)
report["end"] = changed(before)
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def program():
    """What a program of its own sees, one that uses JAX in 32 bits."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_and_fit_leave_the_settings_as_they_were(program):
    assert program["import"] == program["fit"] == program["end"] == []
    assert program["environment"] and program["numpy"]


def test_the_program_around_a_fit_keeps_its_precision(program):
    assert program["before"] == program["after"] == program["thread before"] == program["thread after"] == "float32"
    assert program["inside"] == "float64"


@pytest.mark.parametrize("where", ["in a float32 program", "in a thread", "in a float64 program"])
def test_a_fit_is_float64_wherever_it_runs(program, where, sleep_reml):
    np.testing.assert_allclose(program[where], sleep_reml.deviance, rtol=1e-13)


def test_fits_in_threads_at_once_do_not_disturb_each_other(sleepstudy, sleep_reml, sleep_ml):
    found = {}

    def work(reml, k):
        found[reml, k] = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy, reml=reml).deviance

    threads = [threading.Thread(target=work, args=(reml, k)) for reml in (True, False) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (reml, _), value in found.items():
        assert value == (sleep_reml if reml else sleep_ml).deviance
    assert len(found) == 6


# ---------------------------------------------------------------- keys
def test_simulations_depend_on_their_key_and_number_alone(sleep_reml):
    key = jax.random.key(7)
    three, five = sleep_reml.simulate(3, key=key), sleep_reml.simulate(5, key=key)
    np.testing.assert_array_equal(three, five[:3])
    with jax.enable_x64(True):
        np.testing.assert_array_equal(sleep_reml.simulate(3, key=key), three)
    assert np.all(sleep_reml.simulate(3, key=jax.random.key(8)) != three)
    np.testing.assert_array_equal(sleep_reml.simulate(3, key=jax.random.PRNGKey(7)), three)
    with pytest.raises(TypeError, match=r"jax\.random\.key\(0\)"):
        sleep_reml.simulate(3, key=7.0)
    np.testing.assert_array_equal(sleep_reml.simulate(3, key=7), three)
