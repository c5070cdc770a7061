"""What single fits and batches compile lowers for CUDA, on a machine without a GPU: traced and lowered, never compiled.

A program that has no rule for CUDA, or one that would call LAPACK there, fails here and not first on an accelerator.
"""

import importlib
import re
from functools import cache
from types import ModuleType, SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import model, replanned
from problems import PROBLEMS

import jaxmm as mm
from jaxmm import _pieces, costs, estimate_glmm, generalised, start_glmm
from jaxmm._compiled import Program
from jaxmm.batch import pool as search
from jaxmm.batch import setup
from jaxmm.batch.engine import _Job
from jaxmm.families import FAMILIES
from jaxmm.lanes.generalised_blocks import GeneralisedBlocks
from jaxmm.lanes.generalised_lanes import GeneralisedLanes
from jaxmm.lanes.linear_blocks import LinearBlocks
from jaxmm.lanes.linear_lanes import LinearLanes
from jaxmm.objective.mode import zero_effects
from jaxmm.results.shards import Shard
from jaxmm.sources.direct import DirectlySimulated
from jaxmm.sources.draw import Simulated
from jaxmm.sources.inputs import Inputs
from jaxmm.sources.resample import LeaveOneOut
from jaxmm.sources.responses import ArrayResponses, Varying

estimate = importlib.import_module("jaxmm.estimate")  # the package has a function of this name
LANES = 3
MATRIX_LIBRARY = re.compile(r"lapack|blas|solver|cu_lu|triangular|cholesky|magma")


# ---------------------------------------------------------------- lowering
def lowered(program, *arguments, platform="cuda"):
    """The program's text for a platform, and the shapes of its results."""
    with jax.enable_x64(True):
        traced = program.bind(*arguments).function.trace(*arguments)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    if platform == "cuda":
        assert "lapack" not in text
    return text, traced.out_info


def library_calls(text: str) -> set[str]:
    """The routines of matrix libraries in a text, and the operations that the compiler makes such of."""
    targets = re.findall(r'custom_call @"?([\w.$]+)|call_target_name = "([^"]+)"', text)
    found = {a or b for a, b in targets} | set(re.findall(r"stablehlo\.(cholesky|triangular_solve)", text))
    return {name for name in found if MATRIX_LIBRARY.search(name)}


def programs_of(module: ModuleType) -> dict[str, Program]:
    return {name: x for name, x in vars(module).items() if isinstance(x, Program)}


def lowered_not_run(program: Program, *arguments):
    """In the place of a call: the shapes of what it would have given."""
    return lowered(program, *arguments)[1]


# ---------------------------------------------------------------- models
def of_shapes(m: mm.Model) -> mm.Model:
    """A generalised model whose ``arrays`` are shapes: a program would have to run for their numbers."""
    m.arrays = lowered(generalised._with_response, m.parts, m.design.y)[1]
    return m


def response_of(family: str, n: int) -> np.ndarray:
    """Numbers that every family takes, or those with bounds."""
    rng = np.random.default_rng(0)
    if family == "beta":
        return rng.uniform(0.1, 0.9, n)
    return rng.binomial(4, 0.4, n) + (0.0 if FAMILIES[family]().has_trials else 1.0)


def family_model(problem: str, family: str = "poisson", **arguments) -> mm.Model:
    p = PROBLEMS[problem]
    trials = 4 if FAMILIES[family]().has_trials else None
    m = mm.Model.from_arrays(response_of(family, len(p.y)), p.X, p.terms, family, trials=trials, **arguments)
    return of_shapes(m if p.sparse is None else replanned(m, sparse=p.sparse))


ONE = "one factor, q = 2"
STRUCTURES = (ONE, "nested, 2 levels", "crossed, q = 1 and 1, dense border", "crossed, q = 2 and 2, cells")


@cache
def batch_models() -> dict[str, mm.Model]:
    """Models whose lanes are searched in different ways, by what is special about each."""
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(6), 8), np.tile(np.arange(8), 6)
    wide = np.column_stack([np.ones(48), rng.normal(size=(48, costs.UNROLLED_ROOT + 2))])
    X, y, counts = wide[:, :2], rng.normal(size=48), rng.poisson(2.0, 48) + 0.0
    one, slopes, five = (mm.Term(wide[:, :q], g, "g") for q in (1, 2, 5))
    inner, crossed = mm.Term(wide[:, 0], g * 2 + h % 2, "h"), mm.Term(wide[:, 0], h, "h")

    def count_model(*terms, **arguments):
        return of_shapes(mm.Model.from_arrays(counts, X, terms, "poisson", **arguments))

    return {
        "linear, slopes": mm.Model.from_arrays(y, X, [slopes]),
        "linear, one pattern": mm.Model.from_arrays(y, X[:, :1], [one]),
        "linear, many columns": mm.Model.from_arrays(y, wide, [one]),
        "linear, many effects": mm.Model.from_arrays(y, X, [five]),
        "linear, nested": mm.Model.from_arrays(y, X, [inner, one]),
        "linear, crossed": mm.Model.from_arrays(y, X, [one, crossed]),
        "counts, slopes": count_model(slopes),
        "counts, quadrature": count_model(slopes, n_agq=5),
        "counts, nested": count_model(inner, one),
        "counts, crossed": count_model(one, crossed),
    }


CLASSES = {
    "linear, slopes": LinearBlocks,
    "linear, one pattern": LinearBlocks,
    "linear, many columns": LinearBlocks,
    "linear, many effects": LinearLanes,
    "linear, nested": LinearLanes,
    "linear, crossed": LinearLanes,
    "counts, slopes": GeneralisedBlocks,
    "counts, quadrature": GeneralisedLanes,
    "counts, nested": GeneralisedLanes,
    "counts, crossed": GeneralisedLanes,
}
CLOSED = ("linear, slopes", "linear, one pattern", "linear, many columns", "counts, slopes", "counts, quadrature")


def job_of(m: mm.Model, source) -> _Job:
    """As ``fit_many`` makes it, but for the first Hessian of ``GeneralisedLanes``, which a program would compute."""
    k = m.structure.p + m.structure.num_theta + m.likelihood.family.num_phi + m.likelihood.family.num_extras
    instead = {"guess_on_host": lambda *_: np.zeros(k), "derivatives": lambda *_: (0.0, np.zeros(k), np.eye(k))}
    with mock.patch.multiple(setup, **instead):
        return _Job(m, source, None, LANES, mm.Control(), True, Inputs(m.design, source.n), (), Shard())


def pool_of(job: _Job, own: Varying, theta=None):
    invalid = None if job.way.check is None else np.zeros(LANES, bool)
    return search._pool, job.way.problem, own, theta, invalid, False


def responses(m: mm.Model) -> np.ndarray:
    return np.tile(m.design.y, (LANES, 1))


def lower_search(job: _Job, both) -> None:
    """All that follows a pool of lanes and their data."""
    assert lowered(search._steps, job.way.problem, both, job.control)[1][0] == both
    assert lowered(search._again, job.way.problem, both, np.zeros(LANES, bool))[1] == both
    assert lowered(search._refill, both, both, np.zeros(LANES, np.int32))[1] == both
    with jax.enable_x64(True):
        outcome = jax.eval_shape(lambda both: job.way.problem.outcome(*both), both)
    assert lowered(search._found, job.way.problem, (outcome, None), ())[1].status.shape == (LANES,)


# ---------------------------------------------------------------- single fits
def linear_arguments(m: mm.Model, one_by_one: bool = False) -> dict[str, tuple]:
    theta = np.zeros(m.structure.num_theta)
    return {name: (theta, m.arrays, one_by_one)[: 3 if name == "derivatives" else 2] for name in programs_of(estimate)}


def generalised_arguments(m: mm.Model, one_by_one: bool = False) -> dict[str, tuple]:
    rows, s, n_agq = m.arrays, m.structure, m.likelihood.n_agq
    at = (np.zeros(s.p + s.num_theta + rows.family.num_phi), rows, zero_effects(rows, np))
    return {
        "derivatives": (*at, n_agq, one_by_one),
        "gradient_only": (*at, n_agq),
        "value_only": (*at, 3 if generalised.can_have_nodes(s) else n_agq),  # nodes: as for ``Fit.accuracy``
        "random_effects": at,
        "guess_on_host": (rows,),
    }


@pytest.mark.parametrize("name", PROBLEMS)
def test_linear_fits(name):
    arguments = linear_arguments(model(name))
    for program, of in programs_of(estimate).items():
        lowered(of, *arguments[program])


@pytest.mark.parametrize(("name", "n_agq"), [*((name, 1) for name in STRUCTURES), (ONE, 5)])
def test_generalised_fits(name, n_agq):
    arguments = generalised_arguments(family_model(name, n_agq=n_agq))
    for program, of in programs_of(estimate_glmm).items():
        lowered(of, *arguments[program])


def test_columns_of_a_hessian_one_by_one():
    lowered(estimate.derivatives, *linear_arguments(model(ONE), True)["derivatives"])
    lowered(estimate_glmm.derivatives, *generalised_arguments(family_model(ONE), True)["derivatives"])


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    """What a fit asks of a family, its derivatives to the fourth order among it."""
    m = family_model("one factor, q = 1", name)
    arguments, family, n = generalised_arguments(m), m.likelihood.family, len(m.design.y)
    for program in ("derivatives", "guess_on_host"):
        lowered(programs_of(estimate_glmm)[program], *arguments[program])
    lowered(start_glmm._working_of_all, family, *[np.ones(n)] * 4, family.start_constants(family.num_phi))
    extras = tuple(np.squeeze(e.start) for e in family.extras)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), LANES))
    lowered(generalised._drawn, family, ("mu",), keys, (np.zeros((LANES, n)),), np.ones(()), np.ones(n), extras, True)


# ---------------------------------------------------------------- batches
@pytest.mark.parametrize("name", CLASSES)
def test_batches(name):
    m = batch_models()[name]
    job = job_of(m, ArrayResponses(responses(m)))
    assert type(job.way.problem) is CLASSES[name]
    if name == "linear, one pattern":
        assert job.way.problem.blocks.rotate is not None
    both = lowered(*pool_of(job, Varying(responses(m))))[1]
    assert lowered(*pool_of(job, Varying(responses(m)), np.zeros(len(both[0].theta))))[1] == both
    lower_search(job, both)


@pytest.mark.parametrize("name", ["linear, slopes", "linear, nested", "counts, slopes", "counts, quadrature"])
def test_batches_of_levels_that_count_several_times(name):
    m = batch_models()[name]
    source = LeaveOneOut(SimpleNamespace(model=m))
    job = job_of(m, source)
    assert type(job.way.problem) is LinearLanes or "linear" not in name
    lower_search(job, lowered(*pool_of(job, source.block(0, LANES)))[1])


def truth(m: mm.Model) -> dict:
    d = m.design
    effects = [sum(len(t.effects) for t in d.terms if t.factor == f) for f in range(len(d.factors))]
    sd = {f.name: [0.5] * q for f, q in zip(d.factors, effects, strict=True)}
    known = {"fixef": np.zeros(m.structure.p), "sd": sd}
    if m.likelihood.precisions:
        return known | {"sigma": 1.0}
    family = m.likelihood.family
    start = [x for e in family.extras for x in e.start]
    further = {"family_params": dict(zip(family.constant_names, start, strict=True))} if start else {}
    return known | ({"dispersion": 1.0} if family.num_phi else {}) | further


@pytest.mark.parametrize("name", ["linear, slopes", "linear, one pattern"])
def test_statistics_drawn_directly(name):
    m = batch_models()[name]
    with mock.patch.object(Program, "__call__", lowered_not_run):
        source = DirectlySimulated(m, truth(m), LANES, jax.random.key(0))
        own = source.block(0, LANES)
    job = job_of(m, source)
    both = lowered(*pool_of(job, own))[1]
    lower_search(job, both)


@pytest.mark.parametrize("name", ["linear, crossed", *FAMILIES])
def test_responses_drawn(name):
    m = batch_models()[name] if name in CLASSES else family_model(ONE, name)
    with mock.patch.object(Program, "__call__", lowered_not_run):
        block = Simulated(m, truth(m), LANES, jax.random.key(0)).block(0, LANES)
    assert block.y.shape == (LANES, len(m.design.y)) and block.y.dtype == np.float64


def test_all_programs_of_the_search_are_lowered_here():
    assert set(programs_of(search)) == {"_pool", "_steps", "_again", "_refill", "_found"}


# ---------------------------------------------------------------- what calls a matrix library
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_steps_of_one_factor_call_no_matrix_library(platform):
    """Closed forms, and quadrature, work entry by entry on vectors over levels and lanes: a library would go matrix by
    matrix, and on a CPU two programs that call it at once may wait for each other for ever.

    The one exception is a linear model with more than ``costs.UNROLLED_ROOT`` columns of X: the Cholesky factor of
    X'V^-1 X is not written out then, but the library's, of which ``LinearBlocks.library`` tells.  Products of matrices
    do not count: how they are made is the compiler's choice.
    """
    calling = set()
    for name in CLOSED:
        m = batch_models()[name]
        job = job_of(m, ArrayResponses(responses(m)))
        both = lowered(*pool_of(job, Varying(responses(m))), platform=platform)[1]
        calls = library_calls(lowered(search._steps, job.way.problem, both, job.control, platform=platform)[0])
        assert bool(calls) == ("evaluate" in job.way.problem.library), (name, calls)
        calling |= {name} if calls else set()
    assert calling == {"linear, many columns"}


def test_a_library_call_is_seen():
    def roots(A):
        return jnp.linalg.eigh(A), jnp.linalg.cholesky(A), jnp.linalg.inv(A), jnp.linalg.qr(A)

    for platform in ("cpu", "cuda"):
        found = library_calls(lowered(Program(roots), np.eye(3), platform=platform)[0])
        assert len(found) >= 5, found


def test_what_is_held_on_a_cpu_only():
    x = np.ones(costs.HELD_ROWS)
    branches = {p: "stablehlo.case" in lowered(Program(_pieces.hold), x, platform=p)[0] for p in ("cpu", "cuda")}
    assert branches == {"cpu": True, "cuda": False}
