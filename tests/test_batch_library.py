"""Programs that call the library's matrix routines say so: two at once would wait for each other for ever."""

import re

import jax
import numpy as np
import pytest

import jaxmm as mm
from jaxmm.batch import pool as search
from jaxmm.batch.engine import _Job
from jaxmm.results.shards import Shard
from jaxmm.sources.inputs import Inputs
from jaxmm.sources.responses import ArrayResponses, Varying

LANES = 3


def calls(lowered) -> bool:
    return bool(re.search(r"custom_call @lapack", lowered.as_text()))


def models() -> dict[str, mm.Model]:
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(6), 8), np.tile(np.arange(8), 6)
    x = rng.normal(size=(48, 8))
    y, wide, counts = rng.normal(size=48), np.column_stack([np.ones(48), x]), rng.poisson(2.0, 48) + 0.0
    one, two, many = mm.Term(np.ones(48), g, "g"), mm.Term(wide[:, :2], g, "g"), mm.Term(wide[:, :7], g, "g")
    other = mm.Term(np.ones(48), h, "h")
    return {
        "one factor": mm.Model.from_arrays(y, wide[:, :2], [two]),
        "many columns": mm.Model.from_arrays(y, wide, [one]),
        "many effects": mm.Model.from_arrays(y, wide[:, :2], [many]),
        "crossed": mm.Model.from_arrays(y, wide[:, :2], [one, other]),
        "counts": mm.Model.from_arrays(counts, wide[:, :2], [two], "poisson"),
        "crossed counts": mm.Model.from_arrays(counts, wide[:, :2], [one, other], "poisson"),
        "counts by quadrature": mm.Model.from_arrays(counts, wide[:, :2], [one], "poisson", n_agq=5),
    }


def lowered(program, *arguments):
    return program.bind(*arguments).function.lower(*arguments)


class Weighted(ArrayResponses):
    varies = frozenset({"y", "weights"})


@pytest.mark.parametrize(("name", "model"), models().items())
def test_who_calls_the_library(name, model):
    check_calls(model, ArrayResponses)


@pytest.mark.parametrize("name", ["many columns", "crossed"])
def test_who_calls_it_with_weights(name):
    check_calls(models()[name], Weighted)


def check_calls(model, source):
    Y = np.tile(model.design.y, (LANES, 1))
    own = Varying(Y, weights=np.ones(Y.shape) if source is Weighted else None)
    for start in (None, np.ones(model.structure.num_theta)):
        job = _Job(model, source(Y), start, LANES, mm.Control(), True, Inputs(model.design, len(Y)), (), Shard())
        said = job.way.problem.library
        with jax.enable_x64(True):
            arguments = (job.way.problem, own, job.start, None)
            calling = calls(lowered(search._pool, *arguments, False))
            assert not calling or "data" in said or ("start" in said and start is None)
            both = jax.eval_shape(lambda *x: search._pool(*x, False), *arguments)
            assert not calls(lowered(search._steps, job.way.problem, both, job.control)) or "evaluate" in said
            outcome = jax.eval_shape(lambda both, job=job: job.way.problem.outcome(*both), both)
            assert not calls(lowered(search._found, job.way.problem, (outcome, None), ())) or "found" in said
