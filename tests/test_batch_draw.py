"""Simulated responses: their moments are those of the model, and replicate k is the same whatever is drawn with it."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats

import jaxmm as mm
from jaxmm import _random
from jaxmm.sources.draw import Generated, Simulated
from jaxmm.sources.truth import as_truth

KEY = jax.random.key(11)
MANY = 20_000
RNG = np.random.default_rng(1)


def data(n: int, **columns) -> pd.DataFrame:
    return pd.DataFrame({"y": RNG.normal(size=n), "x": np.linspace(-1, 1, n), **columns})


def letters(codes) -> list[str]:
    return [f"l{c}" for c in codes]


def draw(source, first: int = 0, size: int | None = None) -> np.ndarray:
    y = source.block(first, source.n if size is None else size).y
    assert y.dtype == np.float64
    return np.asarray(y)


ONE = data(8, g=letters([0, 1, 0, 2, 1, 2, 0, 0]), w=[1.0, 4.0, 0.5, 1.0, 2.0, 1.0, 0.3, 1.0], o=np.arange(8.0))
NESTED = data(8, s=letters([0, 0, 0, 0, 1, 1, 1, 1]), c=letters([0, 0, 1, 1, 0, 1, 2, 2]))
CROSSED = data(8, s=letters([0, 0, 0, 1, 1, 1, 2, 2]), i=letters([0, 1, 2, 0, 1, 2, 0, 1]))
SLOPES = {"fixef": [1.0, -2.0], "sd": {"g": [1.5, 0.5]}, "sigma": 0.8}

LINEAR = {
    "slopes": ("y ~ x + (x | g)", ONE, {}, SLOPES | {"corr": {"g": 0.6}}),
    "diagonal": ("y ~ x + (x || g)", ONE, {}, SLOPES),
    "weights, offset": ("y ~ x + (1 | g)", ONE, {"weights": "w", "offset": "o"}, SLOPES | {"sd": 1.2}),
    "nested": ("y ~ 1 + (1 | s/c)", NESTED, {}, {"fixef": 3.0, "sd": {"s": 1.0, "c:s": 2.0}, "sigma": 0.5}),
    "crossed": ("y ~ x + (1 | s) + (1 + x | i)", CROSSED, {},
                {"fixef": [0.0, 1.0], "sd": {"s": 1.0, "i": [2.0, 0.7]}, "corr": {"i": -0.5}, "sigma": 1.0}),
    "two terms of a factor": ("y ~ x + (1 | i) + (0 + x | i) + (1 | s)", CROSSED, {},
                              {"fixef": [0.0, 1.0], "sd": {"s": 1.0, "i": [2.0, 0.7]}, "sigma": 1.0}),
    "no residual": ("y ~ x + (x | g)", ONE, {}, SLOPES | {"sigma": 0.0, "corr": {"g": 1.0}}),
}  # fmt: skip


def linear(name: str) -> tuple[mm.Model, dict]:
    formula, table, options, truth = LINEAR[name]
    return mm.Model.from_formula(formula, table, **options), truth


def expected(model: mm.Model, truth: dict, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of y, V = Σ ZDZ' + σ²/w, from the stated numbers."""
    d = model.design
    V = np.diag(truth["sigma"] ** 2 / (np.ones(len(d.y)) if d.weights is None else d.weights))
    for f, factor in enumerate(d.factors):
        terms = [t for t in d.terms if t.factor == f]
        sd = np.atleast_1d(truth["sd"][factor.name] if isinstance(truth["sd"], dict) else truth["sd"])
        R = np.full((len(sd), len(sd)), truth.get("corr", {}).get(factor.name, 0.0))
        np.fill_diagonal(R, 1.0)
        Z = np.hstack([t.Z for t in terms])
        V += (factor.codes[:, None] == factor.codes[None]) * (Z @ (R * np.outer(sd, sd)) @ Z.T)
    mean = d.X @ np.atleast_1d(truth["fixef"]) + (0.0 if d.offset is None else table["o"].to_numpy())
    return mean, V


# ---------------------------------------------------------------- linear models
@pytest.mark.parametrize("name", LINEAR)
def test_moments(name):
    """Each mean and covariance within 4.5 of its standard errors: 1 in 150,000 beyond."""
    model, truth = linear(name)
    y = draw(Simulated(model, truth, MANY, KEY))
    mean, V = expected(model, truth, LINEAR[name][1])
    v = np.diag(V)
    assert np.all(np.abs(y.mean(axis=0) - mean) <= 4.5 * np.sqrt(v / MANY))
    e = y - mean
    error = np.sqrt((np.outer(v, v) + V**2) / MANY)
    assert np.all(np.abs(e.T @ e / MANY - V) <= 4.5 * error)
    kurtosis = np.mean((e / np.sqrt(v)) ** 4, axis=0)
    assert np.all(np.abs(kurtosis - 3) <= 4.5 * np.sqrt(96 / MANY))


def test_group_means_vary_as_new_groups_do():
    """sd = √(τ² + σ²/n), and not the σ/√n of responses drawn at given effects."""
    tau, sigma, r = 1.0, 2.0, 10
    table = data(12 * r, g=letters(np.repeat(range(12), r)))
    fit = mm.lmm("y ~ 1 + (1 | g)", table)
    stated = {"fixef": 0.0, "sd": tau, "sigma": sigma}
    means = draw(Simulated(fit.model, stated, 5000, KEY)).reshape(-1, 12, r).mean(axis=2)
    sd = np.sqrt(tau**2 + sigma**2 / r)
    assert abs(np.sqrt(np.mean(means**2)) / sd - 1) < 4 / np.sqrt(2 * means.size)
    conditional = draw(Simulated(fit.model, fit, 5000, KEY, re="conditional")).reshape(-1, 12, r).mean(axis=2)
    modes = fit.fixef.iloc[0] + fit.ranef()["g"].iloc[:, 0]
    noise = fit.sigma / np.sqrt(r)
    assert np.all(np.abs(conditional.mean(axis=0) - modes) < 4.5 * noise / np.sqrt(5000))
    assert np.all(np.abs(conditional.std(axis=0) / noise - 1) < 4.5 / np.sqrt(2 * 5000))


@pytest.mark.parametrize("re", ["new", "conditional"])
def test_the_same_as_the_fit_simulates(re, sleep_reml):
    source = Simulated(sleep_reml.model, sleep_reml, 7, KEY, re=re)
    np.testing.assert_allclose(draw(source), sleep_reml.simulate(7, key=KEY, re=re), rtol=1e-12)


def test_the_same_as_the_fit_simulates_with_weights_and_an_offset():
    table = data(120, g=letters(np.repeat(range(12), 10)), w=np.linspace(0.5, 2, 120))
    fit = mm.lmm("y ~ 1 + (1 | g) + offset(x)", table, weights="w")
    y = draw(Simulated(fit.model, as_truth(fit.model, fit), 5, KEY))
    np.testing.assert_allclose(y, fit.simulate(5, key=KEY), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- families
COUNTS = pd.DataFrame(
    {"k": [3, 0, 5, 1, 2, 9], "m": [5, 8, 12, 5, 8, 12], "r": [1.0, 2.0, 0.5, 0.2, 3.0, 1.1], "g": list("aabbcc")}
)
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


def marginal(mean, variance, eta: float, tau: float) -> tuple[float, float]:
    """Mean and variance of y over b ~ N(0, τ²), by quadrature: E Var + Var E."""
    m = mean(eta + tau * NODES)
    first = NODE_WEIGHTS @ m
    return first, NODE_WEIGHTS @ (variance(m) + m**2) - first**2


def check_marginal(y: np.ndarray, moments: tuple[float, float]) -> None:
    """One row's draws: mean and variance within 4.5 standard errors, that of the variance by the sample's own."""
    mean, variance = moments
    assert abs(y.mean() - mean) < 4.5 * np.sqrt(variance / len(y))
    assert abs(y.var() - variance) < 4.5 * np.std((y - y.mean()) ** 2) / np.sqrt(len(y))


def test_counts_of_successes():
    model = mm.Model.from_formula("cbind(k, m - k) ~ 1 + (1 | g)", COUNTS, "binomial")
    y = draw(Simulated(model, {"fixef": -0.5, "sd": 0.8}, MANY, KEY))
    assert np.all(y == np.round(y)) and np.all(y >= 0) and np.all(y <= COUNTS.m.to_numpy())
    p, second = marginal(lambda e: 1 / (1 + np.exp(-e)), lambda p: 0 * p, -0.5, 0.8)
    for column, m in zip(y.T, COUNTS.m, strict=True):
        check_marginal(column, (m * p, m * p * (1 - p) + m * (m - 1) * second))


def test_a_family_with_a_dispersion():
    model = mm.Model.from_formula("r ~ 1 + (1 | g)", COUNTS, mm.families.Gamma(link="log"))
    y = draw(Simulated(model, {"fixef": 0.3, "sd": 0.4, "dispersion": 0.5}, 4000, KEY))
    moments = marginal(np.exp, lambda mu: 0.5 * mu**2, 0.3, 0.4)
    for column in y.T:
        check_marginal(column, moments)
    # rows of a group share its effect: the covariance of their means
    shared = NODE_WEIGHTS @ np.exp(0.3 + 0.4 * NODES) ** 2 - moments[0] ** 2
    product = (y[:, 0] - moments[0]) * (y[:, 1] - moments[0])
    assert abs(product.mean() - shared) < 4.5 * product.std() / np.sqrt(len(y))


# ---------------------------------------------------------------- replicate k
def generator(key):
    return jax.random.normal(key, (7,))


def source_of(name: str):
    if name == "generated":
        return Generated(generator, 300, KEY)
    if name == "binomial":
        model = mm.Model.from_formula("cbind(k, m - k) ~ 1 + (1 | g)", COUNTS, "binomial")
        return Simulated(model, {"fixef": -0.5, "sd": 0.8}, 300, KEY)
    table = data(331, g=letters(np.arange(331) % 30), h=letters(np.arange(331) % 7), w=RNG.uniform(0.1, 2, 331))
    model = mm.Model.from_formula("y ~ x + (x | g) + (1 | h)", table, weights="w")
    return Simulated(model, {"fixef": [0.1, 1.7], "sd": {"g": [0.7, 1.1], "h": 0.3}, "sigma": 1.3}, 300, KEY)


@pytest.mark.parametrize(("name", "sizes"), [("linear", (1, 7, 64)), ("binomial", (1,)), ("generated", (1, 7))])
def test_replicates_do_not_depend_on_their_block(name, sizes):
    """To the bit, also where rows and replicates fill no whole vector of the machine."""
    source = source_of(name)
    together = draw(source)
    assert len(np.unique(together[:, 0])) > (3 if name == "binomial" else 299)
    for size in sizes:
        for first in (0, 5, 300 - size):
            np.testing.assert_array_equal(draw(source, first, size), together[first : first + size])


def test_more_replicates_are_the_same_ones():
    model, truth = linear("slopes")
    np.testing.assert_array_equal(draw(Simulated(model, truth, 9, KEY))[:4], draw(Simulated(model, truth, 4, KEY)))
    assert np.all(draw(Simulated(model, truth, 4, jax.random.key(12))) != draw(Simulated(model, truth, 4, KEY)))


OTHER_PROCESS = """
import jax, numpy as np, pandas as pd
import jaxmm as mm
from jaxmm.sources.draw import Simulated
from jaxmm._context import computing
key = jax.random.wrap_key_data(np.array([0, 11], np.uint32), impl="threefry2x32")
table = pd.DataFrame({"y": np.linspace(0, 1, 7) ** 2, "g": list("aabbccc")})
source = Simulated(mm.Model.from_formula("y ~ 1 + (1 | g)", table), {"fixef": 1.0, "sd": 0.5, "sigma": 1.0}, 50, key)
for device in jax.devices():
    with computing(device):
        y = source.block(3, 20).y
        assert y.device == device
        print(np.asarray(y).tobytes().hex())
print(source.identity())
"""


def test_another_process_and_devices_and_generator():
    """Two devices in a process whose own keys are of another kind."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    run = subprocess.run([sys.executable, "-c", OTHER_PROCESS], env=env, capture_output=True, text=True, check=True)
    table = pd.DataFrame({"y": np.linspace(0, 1, 7) ** 2, "g": list("aabbccc")})
    model = mm.Model.from_formula("y ~ 1 + (1 | g)", table)
    source = Simulated(model, {"fixef": 1.0, "sd": 0.5, "sigma": 1.0}, 50, KEY)
    here = draw(source, 3, 20).tobytes().hex()
    assert run.stdout.split("\n")[:3] == [here, here, str(source.identity())]


def test_the_callers_precision_is_left_alone():
    before = jax.config.jax_enable_x64  # pyright: ignore
    model, truth = linear("slopes")
    Simulated(model, truth, 3, KEY).block(0, 3)
    assert jax.config.jax_enable_x64 == before  # pyright: ignore


# ---------------------------------------------------------------- keys and numbers
def test_the_cipher_is_threefry():
    data, counter = np.array([[7, 9]], np.uint32), np.arange(10, dtype=np.uint32)
    with jax.enable_x64(True):
        a, b = _random.threefry(data[0, 0], data[0, 1], jnp.asarray(counter[:5]), jnp.asarray(counter[5:]))
    np.testing.assert_array_equal(np.concatenate([a, b]), threefry_2x32(data[0], counter))


def test_normal_numbers_are_box_and_mullers():
    """From the bits in another way: whole numbers, NumPy's functions, the same points of the circle."""
    key, size = jax.random.key(3), 1001
    with jax.enable_x64(True):
        found = np.asarray(_random.normals(key[None], size))[0]
    counter = np.arange(1002, dtype=np.uint32)
    words = np.asarray(threefry_2x32(jax.random.key_data(key), np.concatenate([0 * counter, counter])))
    bits = (words[:1002].astype(np.uint64) << np.uint64(32)) | words[1002:]
    a, b = bits[:501], bits[501:]
    u = 1 - (a >> np.uint64(12)) * 2.0**-52
    t = ((b >> np.uint64(12)) * 2.0**-52 - 0.5) * np.pi / 2
    r = np.sqrt(-2 * np.log(u))
    along = np.where(b & np.uint64(2), -1.0, 1.0) * r * np.cos(t)
    across = r * np.sin(t)
    swap = (b & np.uint64(1)).astype(bool)
    pairs = np.where(swap, across, along), np.where(swap, along, across)
    np.testing.assert_allclose(found, np.concatenate(pairs)[:size], rtol=1e-14, atol=1e-15)


def test_series():
    u = np.concatenate(
        [RNG.random(4000), 2.0 ** -np.arange(53), 1 - 2.0 ** -np.arange(1.0, 53), 2.0**-52 * np.arange(1, 99)]
    )
    t = np.append(np.linspace(-1, 1, 4001), [1e-9, 1e-300]) * (np.pi / 4)
    with jax.enable_x64(True):
        log, (sine, cosine) = jax.jit(_random.log)(u, _random.ZERO), jax.jit(_random.sine_cosine)(t, _random.ZERO)
    np.testing.assert_allclose(log, np.log(u), rtol=1e-15)
    np.testing.assert_allclose(sine, np.sin(t), rtol=1e-15)
    np.testing.assert_allclose(cosine, np.cos(t), rtol=1e-15)


def test_normal_numbers_are_normal():
    with jax.enable_x64(True):
        z = np.asarray(_random.normals(jax.random.split(jax.random.key(5), 3000), 1000))
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    tails = [np.mean(np.abs(z) > c) / (2 * stats.norm.sf(c)) - 1 for c in (2.0, 3.0, 4.0)]
    bounds = [4.5 / np.sqrt(z.size * 2 * stats.norm.sf(c)) for c in (2.0, 3.0, 4.0)]
    assert np.all(np.abs(tails) < bounds)
    # no trace of the pairs, nor of neighbouring keys
    for a, b in ((z[:, :500], z[:, 500:]), (z[:-1], z[1:]), (z[:, :-1], z[:, 1:])):
        for x, y in ((a, b), (a**2, b**2), (np.abs(a), b)):
            assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 4.5 / np.sqrt(a.size)


def test_a_sum_is_not_fused_with_a_product():
    """Of 0.1 × 10 - 1 a fused operation would leave the rounding error of 0.1, 2^-54 or so."""
    with jax.enable_x64(True):
        x = jnp.full(64, 0.1)
        found = jax.jit(lambda x, ten, zero: _random.apart(x * ten, zero) - 1.0)(x, 10.0, _random.ZERO)
    np.testing.assert_array_equal(found, 0.0)


@pytest.mark.parametrize("size", [3, 31])
def test_normal_numbers_do_not_depend_on_their_block(size):
    keys = jax.random.split(jax.random.key(5), 512)
    with jax.enable_x64(True):
        together = np.asarray(_random.normals(keys, size))
        for n in (1, 2, 8, 255):
            np.testing.assert_array_equal(_random.normals(keys[:n], size), together[:n])


def test_keys_of_any_kind():
    raw = np.array([0, 11], np.uint32)
    np.testing.assert_array_equal(_random.words(KEY), raw)
    np.testing.assert_array_equal(_random.words(jnp.asarray(raw)), raw)
    seen = {tuple(_random.words(jax.random.key(s, impl="rbg")).tolist()) for s in range(100)}
    assert len(seen) == 100
    model, truth = linear("slopes")
    other = jax.random.key(11, impl="rbg")
    np.testing.assert_array_equal(
        draw(Simulated(model, truth, 3, other)), draw(Simulated(model, truth, 9, other), 0, 3)
    )


def test_replicate_keys_are_those_of_jax():
    effects, response = _random.replicate_keys(KEY, 2**32 - 3, 2)
    for i in range(2):
        pair = jax.random.split(jax.random.fold_in(KEY, 2**32 - 3 + i))
        assert [effects[i], response[i]] == [pair[0], pair[1]]


# ---------------------------------------------------------------- Generated
def test_generated_is_the_function_of_the_replicates_key():
    y = draw(Generated(generator, 5, KEY), 2, 3)
    with jax.enable_x64(True):
        for i in range(3):
            key, _ = jax.random.split(jax.random.fold_in(KEY, 2 + i))
            np.testing.assert_array_equal(y[i], generator(key))


@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_generated_is_float64(dtype):
    source = Generated(lambda key: jax.random.bernoulli(key, 0.5, (40,)).astype(dtype), 50, KEY)
    assert set(np.unique(draw(source))) == {0.0, 1.0}


def test_generated_is_told_apart():
    one, two = Generated(generator, 5, KEY), Generated(lambda key: 2 * generator(key), 5, KEY)
    assert one.identity() == Generated(generator, 5, KEY).identity() != two.identity()
    assert json.loads(json.dumps(one.identity())) == one.identity()


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (3, TypeError, "function must map a key to a response"),
        (lambda key: 1.0, ValueError, "one response"),
        (lambda key: jnp.zeros((2, 3)), ValueError, "shape (2, 3)"),
        (lambda key: jax.random.normal(key), ValueError, "shape ()"),
    ],
)
def test_generated_refuses(function, error, words):
    with pytest.raises(error) as e:
        Generated(function, 5, KEY)
    assert words in str(e.value)


# ---------------------------------------------------------------- identity and bad input
def test_identity():
    model, truth = linear("slopes")
    own = Simulated(model, truth, 9, KEY).identity()
    assert json.loads(json.dumps(own)) == own == Simulated(model, as_truth(model, truth), 9, KEY).identity()
    others = [
        Simulated(model, truth, 10, KEY),
        Simulated(model, truth, 9, jax.random.key(12)),
        Simulated(model, truth | {"sigma": 0.81}, 9, KEY),
        Simulated(model, truth | {"fixef": [1.0, -2.1]}, 9, KEY),
        Simulated(model, truth | {"sd": {"g": [1.5, 0.6]}}, 9, KEY),
        Simulated(mm.Model.from_formula("y ~ x + (x | g)", ONE[::-1]), truth, 9, KEY),
    ]
    seen = [json.dumps(s.identity()) for s in others]
    assert len({*seen, json.dumps(own)}) == len(others) + 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n": 0}, ValueError, "n must be a positive number of replicates below 2^32, not 0"),
        ({"n": 2.0}, ValueError, "not 2.0"),
        ({"n": True}, ValueError, "not True"),
        ({"n": 2**32}, ValueError, "below 2^32"),
        ({"key": 7.0}, TypeError, "not 7.0"),
        ({"key": None}, TypeError, "key must be a seed"),
        ({"re": "none"}, ValueError, "re must be 'new' or 'conditional', not 'none'"),
        ({"re": "conditional"}, ValueError, "needs the Fit whose modes"),
        ({"truth": {"fixef": [1.0, 1.0]}}, ValueError, "truth lacks 'sd'"),
    ],
)
def test_bad_input(arguments, error, words):
    model, truth = linear("slopes")
    with pytest.raises(error) as e:
        Simulated(**{"model": model, "truth": truth, "n": 5, "key": KEY} | arguments)
    assert words in str(e.value)


def test_modes_are_of_the_truth_and_the_rows(sleep_reml, sleepstudy):
    model, truth = sleep_reml.model, as_truth(sleep_reml.model, sleep_reml)
    y = draw(Simulated(model, truth, 2, KEY, re="conditional", fit=sleep_reml))
    np.testing.assert_array_equal(y, draw(Simulated(model, sleep_reml, 2, KEY, re="conditional")))
    with pytest.raises(ValueError, match="the truth differs from the fit"):
        stated = {"fixef": [250.0, 10.0], "sd": {"Subject": [25.0, 6.0]}, "sigma": 25.0}
        Simulated(model, stated, 2, KEY, re="conditional", fit=sleep_reml)
    with pytest.raises(ValueError, match="other rows than the model"):
        other = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", sleepstudy[:90])
        Simulated(other, sleep_reml, 2, KEY, re="conditional")
    with pytest.raises(ValueError, match="fit= is for re='conditional'"):
        Simulated(model, truth, 2, KEY, fit=sleep_reml)
