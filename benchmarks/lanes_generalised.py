"""Lanes of a generalised model that differ in more than y, beside lanes that do not: 40 groups of 10 counts.

    python benchmarks/lanes_generalised.py [lanes]

Each kind is run warm, in turn, and the shortest of three is taken; seconds are of the processor, of all cores together.
"""

import sys
import time

import numpy as np
import pandas as pd

import jaxmm as mm
from jaxmm.sources.responses import ArrayResponses, Varying

GROUPS, SIZE = 40, 10


class Own(ArrayResponses):
    """Rows of Y, each with what else it has of its own."""

    def __init__(self, Y: np.ndarray, **own):
        super().__init__(Y)
        self.own = Varying(Y, **own)
        self.varies = self.own.given()

    def block(self, first: int, size: int) -> Varying:
        return self.own.each(lambda x: x[first : first + size])


def kinds(lanes: int) -> tuple[mm.Model, dict[str, Own]]:
    """The model, and what lanes of each kind have."""
    rng = np.random.default_rng(0)
    g, n = np.repeat(np.arange(GROUPS), SIZE), GROUPS * SIZE
    x = rng.normal(size=n)
    Y = 1.0 * rng.poisson(np.exp(0.5 + 0.3 * x + 0.6 * rng.normal(size=(lanes, GROUPS))[:, g]))
    model = mm.Model.from_formula("y ~ x + (1 | g)", pd.DataFrame({"y": Y[0], "g": g, "x": x}), family="poisson")
    X = np.stack([np.ones((lanes, n)), rng.normal(size=(lanes, n))], axis=2)
    return model, {
        "shared": Own(Y),
        "weights": Own(Y, weights=rng.uniform(0.5, 2, (lanes, n))),
        "5 % missing": Own(Y, weights=1.0 * (rng.random((lanes, n)) > 0.05)),
        "offset": Own(Y, offset=rng.normal(0, 0.3, (lanes, n))),
        "column": Own(Y, X=X),
    }


def main() -> None:
    lanes = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    model, sources = kinds(lanes)
    times: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(4):
        for name, source in sources.items():
            before = time.process_time()
            mm.fit_many(model, source, progress=False)
            times[name].append(time.process_time() - before)
            if not turn:
                print(f"{name}: first call {times[name].pop():.1f} s of processor time", flush=True)
    for name, spent in times.items():
        print(f"{name}: {lanes / min(spent):.0f} lanes per second, {min(times['shared']) / min(spent):.2f} of shared")


if __name__ == "__main__":
    main()
