"""Lanes that differ in more than y, beside lanes that share their design: fits per second, and what each compiles.

    python lanes.py [--lanes 10000] [--passes 5] [NAME ...]

Each kind of lanes is run once to be compiled, on its first ``lanes``, then all kinds in turn, several times: a pass
of each stands beside a pass of the shared design, so that a busy machine slows both.  Printed are the shortest pass
of each kind, its share of the shared figure (the median over passes), and what the first call took longer than that.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import jaxmm as mm
from jaxmm.sources.responses import ArrayResponses, Varying


class Own(ArrayResponses):
    """Rows of Y, each with what it has of its own; ``Z`` a tuple by term."""

    def __init__(self, Y: np.ndarray, **own):
        super().__init__(Y)
        self.own, self.varies = own, frozenset({"y", *own})

    def block(self, first: int, size: int) -> Varying:
        at = slice(first, first + size)
        own = {k: tuple(z[at] for z in x) if k == "Z" else x[at] for k, x in self.own.items()}
        return super().block(first, size)._replace(**own)


def kinds(lanes: int) -> dict:
    """Name -> (model, responses), of sleepstudy's design with the truth of its fit."""
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
    rng, model = np.random.default_rng(1), fit.model
    Y, d = np.asarray(fit.simulate(lanes, key=1)), model.design
    n, codes = len(d.y), d.factors[0].codes
    days = d.X[:, 1] + rng.normal(size=(lanes, n))
    other = np.stack([np.ones_like(days), days], -1)
    other_term = mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy")).model
    copies = 1.0 * (rng.random((lanes, 18)) > 0.1)
    return {
        "shared": (model, ArrayResponses(Y)),
        "weights": (model, Own(Y, weights=rng.gamma(4.0, 0.25, (lanes, n)))),
        "missing": (model, Own(Y, weights=1.0 * (rng.random((lanes, n)) > 0.05))),
        "column": (model, Own(Y, X=other)),
        "column and slope": (model, Own(Y, X=other, Z=(other,))),
        "offset": (model, Own(Y, offset=rng.normal(size=(lanes, n)))),
        "groups": (model, Own(Y, copies=copies)),
        "groups by weights": (model, Own(Y, weights=copies[:, codes])),
        "shared intercept": (other_term, ArrayResponses(Y)),
        "column intercept": (other_term, Own(Y, X=other)),
    }


def run(model, source) -> float:
    start = time.perf_counter()
    batch = mm.fit_many(model, source, progress=False)
    assert batch.converged.mean() > 0.99, np.bincount(batch.status)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--lanes", type=int, default=10_000)
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    every = kinds(options.lanes)
    base = {name: "shared intercept" if "intercept" in name else "shared" for name in every}
    chosen = {name: every[name] for name in (options.names or every)}
    chosen = {base[name]: every[base[name]] for name in chosen} | chosen
    first = {name: run(*task) for name, task in chosen.items()}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(options.passes):
        for name, task in chosen.items():
            times[name].append(run(*task))
    for name, own in times.items():
        share = statistics.median(b / t for b, t in zip(times[base[name]], own, strict=True))
        rate, compiled = options.lanes / min(own), first[name] - min(own)
        print(f"{name:20s} {rate:10,.0f} fits/s  {share:6.2f} of {base[name]:18s} first call {compiled:5.1f} s more")


if __name__ == "__main__":
    main()
