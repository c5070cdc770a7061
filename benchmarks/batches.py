"""The tasks of many fits: one design, one true model, and as many responses as are asked for, all from a seed.

    stage(batch, cache) -> folder          columns as `problems.stage` writes them, and beside them
        Y.f8                               (lanes, n) little-endian float64, a response in each row
        deviances/<peer>-<way>.f8          what each peer reached on the first of them, lane by lane

A response is drawn from the true model: eta = X beta + sum of Z b, b normal with the stated standard deviations and
correlation of a factor's effects. The first `common` responses are what the peers are compared on, lane by lane. In a
whole power simulation (`simulated`) the drawing belongs to what is timed, and each peer draws its own.

    python batches.py TASK CACHE           stages one task
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import problems

Columns = problems.Columns
BLOCK = 500  # responses drawn together: the first ones are the same however many there are


@dataclasses.dataclass(frozen=True)
class Batch:
    """One task. `design(rng)` gives the columns but for the response `y`.

    `fixed` maps columns to coefficients, "1" being the intercept; `random` a grouping factor to (columns, standard
    deviations, correlation), the one with most levels first. They are the formula and the truth in one. `trials`
    names the column of trials of a grouped binomial response: Y then counts successes.
    """

    name: str
    design: Callable[[np.random.Generator], Columns]
    seed: int
    fixed: dict[str, float]
    random: dict[str, tuple[tuple[str, ...], tuple[float, ...], float]]
    _: dataclasses.KW_ONLY
    sigma: float = 1.0
    family: str | None = None
    link: str | None = None
    trials: str | None = None
    reml: bool = False
    common: int = 0  # responses on which the peers are compared
    lanes: int = 0  # responses there are, or data sets in one call of a simulation
    kind: str = "given"  # given | simulated | direct | stream
    goals: dict[str, float] = dataclasses.field(default_factory=dict)  # fits per second of a way of jaxmm

    @cached_property
    def formula(self) -> str:
        y = f"cbind(y, {self.trials} - y)" if self.trials else "y"
        return self._formula(y)

    @cached_property
    def proportion_formula(self) -> str:
        """The formula for a library that takes a proportion and the trials as weights."""
        return self._formula("proportion" if self.trials else "y")

    def _formula(self, y: str) -> str:
        bars = [f"({' + '.join(columns)} | {group})" for group, (columns, _, _) in self.random.items()]
        return f"{y} ~ {' + '.join([*self.fixed, *bars])}"

    @property
    def about(self) -> str:
        return " ".join((self.design.__doc__ or "").split())

    @property
    def simulated(self) -> bool:
        return self.kind != "given"

    @property
    def truth(self) -> dict:
        """The true parameters by the names of a fit of jaxmm."""
        named = {"1": "(Intercept)"}

        def sds(columns, sd):
            return {named.get(c, c): s for c, s in zip(columns, sd, strict=True)}

        truth: dict = {
            "fixef": {named.get(c, c): beta for c, beta in self.fixed.items()},
            "sd": {g: sds(columns, sd) for g, (columns, sd, _) in self.random.items()},
            "corr": {g: rho for g, (columns, _, rho) in self.random.items() if len(columns) > 1},
        }
        return truth if self.family else truth | {"sigma": self.sigma}

    @property
    def theta(self) -> np.ndarray:
        """The true covariance factors relative to sigma, column by column of each lower triangle."""
        roots = [effects_root(*effects) / self.sigma for effects in self.random.values()]
        return np.concatenate([root.T[np.triu_indices(len(root))] for root in roots])

    @cached_property
    def tested(self) -> tuple[int, str]:
        """Place and column of the effect whose test a power simulation counts: the last one."""
        return len(self.fixed) - 1, list(self.fixed)[-1]


def effects_root(columns, sd, rho: float) -> np.ndarray:
    return np.diag(sd) if len(columns) == 1 else problems.covariance_root(*sd, rho)


def draw(batch: Batch, columns: Columns, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, rows) responses of the true model; counts of successes where there are trials."""
    held = {name: c[0] if isinstance(c, tuple) else c for name, c in columns.items()}
    rows = len(next(iter(held.values())))
    held["1"] = np.ones(rows)
    eta = np.tile(sum(beta * held[c] for c, beta in batch.fixed.items()), (n, 1))
    for group, (names, sd, rho) in batch.random.items():
        codes = held[group]
        b = rng.normal(size=(n, int(codes.max()) + 1, len(names))) @ effects_root(names, sd, rho).T
        for k, name in enumerate(names):
            eta += b[:, codes, k] * held[name]
    if batch.family is None:
        return eta + batch.sigma * rng.normal(size=eta.shape)
    if batch.family == "poisson":
        return rng.poisson(np.exp(eta)).astype(float)
    trials = held[batch.trials].astype(int) if batch.trials else 1
    return rng.binomial(trials, 1 / (1 + np.exp(-eta))).astype(float)


# ---------------------------------------------------------------- designs
def sleepstudy(rng):
    """The design of sleepstudy: 18 subjects on 10 days, the truth near its estimates by ML."""
    days, subject = (problems.sleepstudy(rng, None)[name] for name in ("Days", "Subject"))
    return {"x": days, "g": subject[0]}


def unbalanced50(rng):
    """50 subjects with 3 to 12 visits each, at times uniform on (0, 10)."""
    g = np.repeat(np.arange(50), rng.integers(3, 13, 50))
    return {"x": rng.uniform(0, 10, g.size), "g": g.astype(np.int32)}


def crossed30x20(rng):
    """30 subjects x 20 items, each pair once, a condition of +-1/2 in a checkerboard."""
    s, i = (index.ravel().astype(np.int32) for index in np.indices((30, 20)))
    return {"c": 0.5 - (s + i) % 2, "s": s, "i": i}


def cbpp(rng):
    """The design of cbpp: 56 herds by periods of known sizes, 15 herds, the truth near its estimates."""
    columns = problems.cbpp(rng, None)
    period = columns["period"][0]
    periods = {f"p{k + 1}": (period == k).astype(float) for k in (1, 2, 3)}
    return {"size": columns["size"], **periods, "g": columns["herd"][0]}


def groups40x10(rng):
    """40 groups of 10, a standard normal predictor."""
    return _groups(rng, 40, 10)


def subjects30x20(rng):
    """30 subjects with 20 binary answers each, a standard normal predictor."""
    return _groups(rng, 30, 20)


def clusters30x10(rng):
    """30 clusters of 10, a standard normal predictor."""
    return _groups(rng, 30, 10)


def balanced30x10(rng):
    """30 clusters of 10, every cluster with the same ten values of the predictor."""
    x = np.linspace(-1.5, 1.5, 10)
    return {"x": np.tile(x, 30), "g": np.repeat(np.arange(30), 10).astype(np.int32)}


def _groups(rng, groups: int, size: int) -> Columns:
    g = np.repeat(np.arange(groups), size).astype(np.int32)
    return {"x": rng.normal(size=g.size), "g": g}


_LINE = ("1", "x")
_PERIODS = {"1": -1.3983, "p2": -0.9919, "p3": -1.1282, "p4": -1.5797}
_ITEMS = {"s": (("1", "c"), (0.7, 0.3), 0.3), "i": (("1", "c"), (0.4, 0.2), -0.2)}
_POWER = {"1": 0.0, "x": 0.2}
_CLUSTERS = {"g": (("1",), (0.5,), 0.0)}
_LOGIT = {"family": "binomial", "link": "logit"}

BATCHES = {
    batch.name: batch
    for batch in (
        Batch(
            "batch_sleepstudy",
            sleepstudy,
            101,
            {"1": 251.4051, "x": 10.4673},
            {"g": (_LINE, (23.7798, 5.7168), 0.0813)},
            sigma=25.5918,
            common=1000,
            lanes=50_000,
            goals={"collapsed": 60_000, "general": 30_000},
        ),
        Batch(
            "batch_unbalanced50",
            unbalanced50,
            102,
            {"1": 10.0, "x": 1.0},
            {"g": (_LINE, (2.0, 0.5), 0.2)},
            sigma=2.0,
            common=1000,
            lanes=30_000,
            goals={"": 15_000},
        ),
        Batch(
            "batch_crossed30x20",
            crossed30x20,
            106,
            {"1": 0.0, "c": 0.3},
            _ITEMS,
            common=200,
            lanes=4_000,
            goals={"": 400},
        ),
        Batch(
            "batch_cbpp",
            cbpp,
            103,
            _PERIODS,
            {"g": (("1",), (0.642,), 0.0)},
            trials="size",
            common=300,
            lanes=30_000,
            goals={"": 8_000},
            **_LOGIT,
        ),
        Batch(
            "batch_poisson40x10",
            groups40x10,
            104,
            {"1": 0.5, "x": 0.3},
            {"g": (("1",), (0.6,), 0.0)},
            family="poisson",
            link="log",
            common=300,
            lanes=20_000,
            goals={"": 6_000},
        ),
        Batch(
            "batch_binary_slopes30x20",
            subjects30x20,
            105,
            {"1": 0.3, "x": 0.5},
            {"g": (_LINE, (1.0, 0.5), 0.3)},
            common=300,
            lanes=8_000,
            goals={"": 2_000},
            **_LOGIT,
        ),
        Batch(
            "power_intercept30x10",
            clusters30x10,
            107,
            _POWER,
            _CLUSTERS,
            reml=True,
            lanes=200_000,
            kind="simulated",
            goals={"": 120_000},
        ),
        Batch(
            "power_slope30x10",
            clusters30x10,
            108,
            _POWER,
            {"g": (_LINE, (0.5, 0.1**0.5), 0.2)},
            reml=True,
            lanes=100_000,
            kind="simulated",
            goals={"": 50_000},
        ),
        Batch(
            "power_direct",
            balanced30x10,
            109,
            _POWER,
            _CLUSTERS,
            reml=True,
            lanes=500_000,
            kind="direct",
            goals={"": 300_000},
        ),
        Batch(
            "stream_memory",
            clusters30x10,
            107,
            _POWER,
            _CLUSTERS,
            reml=True,
            lanes=1_000_000,
            kind="stream",
        ),
    )
}
EVERYTHING = "batch_all"  # but the one that takes a million


def stage(batch: Batch, cache: Path) -> Path:
    """The folder with columns and responses, made where it is not there yet."""
    folder = cache / batch.name
    rng = np.random.default_rng(batch.seed)
    columns = batch.design(rng)
    size = batch.lanes * len(next(iter(columns.values()))) * 8
    path = folder / "Y.f8"
    if batch.simulated or (path.exists() and path.stat().st_size == size):
        size = 0
    (folder / "deviances").mkdir(parents=True, exist_ok=True)
    if size:
        with path.open("wb") as file:
            for first in range(0, batch.lanes, BLOCK):
                Y = draw(batch, columns, BLOCK, rng)[: batch.lanes - first]
                Y.astype("<f8").tofile(file)
        for old in (folder / "deviances").iterdir():
            old.unlink()
    problems.write(folder, columns)
    return folder


def responses(batch: Batch, folder: Path) -> np.ndarray:
    """(lanes, n), a memory map."""
    n = len(next(iter(problems.read(folder).values())))
    return np.memmap(folder / "Y.f8", "<f8", "r").reshape(-1, n)


if __name__ == "__main__":
    print(stage(BATCHES[sys.argv[1]], Path(os.path.abspath(sys.argv[2]))))
