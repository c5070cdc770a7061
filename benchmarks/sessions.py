"""A session that never ends: many different models, or designs of batches, in one process.

    python benchmarks/sessions.py --models 2000 --designs 300

Each model has its own n, p, effects, factors, levels and family; each is fitted, and every 25th printed, predicted
from and simulated from.  Memory (resident, MB) and memory maps are printed as it goes on: both must stay where they are
after the first hundred.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import jaxmm as mm

FAMILIES = ("poisson", "binomial", "gamma")


def used() -> tuple[float, int]:
    """Resident memory in MB, and memory maps."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(Path("/proc/self/maps").read_text().splitlines())


def table(rng: np.random.Generator) -> pd.DataFrame:
    """Rows of two crossed factors, four predictors and a linear predictor ``eta``."""
    J, K = int(rng.integers(6, 40)), int(rng.integers(4, 9))
    n = int(rng.integers(5 * J, 12 * J))
    g = np.concatenate([np.arange(J), rng.integers(0, J, n - J)])
    data = pd.DataFrame(rng.normal(size=(len(g), 4)), columns=[f"x{k}" for k in range(1, 5)])
    data["g"], data["h"] = g, rng.integers(0, K, len(g))
    data["eta"] = 0.3 * data.x1 + 0.5 * rng.normal(size=J)[g] + 0.3 * rng.normal(size=K)[data.h]
    return data


def formula(rng: np.random.Generator) -> str:
    fixed = " + ".join(["1", *(f"x{k}" for k in range(1, int(rng.integers(1, 5)) + 1))])
    effects = ("1", "x1", "x1 + x2")[min(2, int(rng.exponential(0.5)))]
    crossed = " + (1 | h)" if rng.random() < 0.1 else ""
    return f"y ~ {fixed} + ({effects} {'||' if rng.random() < 0.2 else '|'} g){crossed}"


def respond(rng: np.random.Generator, eta: np.ndarray, family: str | None) -> np.ndarray:
    mu = np.exp(np.clip(eta, -3, 3))
    if family == "poisson":
        return rng.poisson(mu).astype(float)
    if family == "binomial":
        return (rng.random(len(mu)) < mu / (1 + mu)).astype(float)
    return mu * rng.gamma(3, 1 / 3, len(mu)) if family == "gamma" else eta + rng.normal(size=len(mu))


def one_model(k: int) -> None:
    rng = np.random.default_rng([1, k])
    data, text = table(rng), formula(rng)
    family = None if rng.random() < 0.5 else FAMILIES[rng.integers(0, len(FAMILIES))]
    data["y"] = respond(rng, data.eta.to_numpy(), family)
    if family is None:
        fit = mm.lmm(text, data, reml=bool(rng.random() < 0.7))
    else:
        fit = mm.glmm(text, data, mm.families.get(family, "log") if family == "gamma" else family)
    if k % 25 == 0:
        str(fit)
        fit.predict(data.iloc[: int(rng.integers(3, 40))])
        fit.simulate(2, key=jax.random.key(k))


def one_design(k: int) -> None:
    rng = np.random.default_rng([2, k])
    data = table(rng)
    family = None if k % 3 else "poisson"
    data["y"] = respond(rng, data.eta.to_numpy(), family)
    model = mm.Model.from_formula("y ~ x1 + (x1 | g)", data, family)
    Y = np.stack([respond(rng, data.eta.to_numpy(), family) for _ in range(32)])
    mm.fit_many(model, Y, progress=False)


def run(what: str, count: int, one) -> None:
    began = time.perf_counter()
    for k in range(count):
        one(k)
        if (k + 1) % max(1, min(100, count // 10)) == 0:
            memory, maps = used()
            took = time.perf_counter() - began
            print(f"{k + 1:6d} {what}  {memory:8.0f} MB  {maps:6d} maps  {took:7.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--designs", type=int, default=300)
    arguments = parser.parse_args()
    run("models", arguments.models, one_model)
    run("designs", arguments.designs, one_design)
