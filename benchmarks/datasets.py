"""Data sets of different sizes by ``fit_many(datasets, formula=)``, about 180 rows each: the first call, with all that
is compiled, and the second; and some of them one by one.

    python benchmarks/datasets.py [number of linear data sets] [of binary ones]
"""

import sys
import time

import numpy as np
import pandas as pd

import jaxmm as mm


def table(k: int) -> pd.DataFrame:
    rng = np.random.default_rng(k)
    J = int(rng.integers(15, 26))
    g = np.repeat(np.arange(J), rng.integers(5, 14, J))
    x, b = rng.normal(size=len(g)), rng.normal(size=(J, 2)) * [1.0, 0.5]
    eta = 0.3 + 0.5 * x + b[g, 0]
    z = (rng.uniform(size=len(g)) < 1 / (1 + np.exp(-eta))).astype(float)
    return pd.DataFrame({"y": eta + b[g, 1] * x + rng.normal(size=len(g)), "z": z, "x": x, "g": g})


def timed(what: str, count: int, make) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    found = make()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    share = np.mean([f.converged for f in found])
    print(
        f"{what:28s} {count / wall:7.0f} per s   {wall:6.2f} s   {cpu:6.2f} s of CPU   {share:.2%} converged",
        flush=True,
    )


def main(linear: int, binary: int) -> None:
    for formula, family, n in (("y ~ x + (x | g)", None, linear), ("z ~ x + (1 | g)", "binomial", binary)):
        tables = [table(k) for k in range(n)]
        for call in ("first", "second"):
            timed(
                f"{formula}, {call} call",
                n,
                lambda f=formula, m=family, t=tables: mm.fit_many(t, formula=f, family=m, progress=False),
            )
        single = mm.lmm if family is None else lambda f, t, m=family: mm.glmm(f, t, m)
        some = tables[:50]
        for call in ("first", "second"):
            timed(
                f"one by one, {call} time",
                len(some),
                lambda f=formula, s=single, t=some: [s(f, one) for one in t],
            )


if __name__ == "__main__":
    main(*(int(x) for x in (sys.argv[1:3] or ("10000", "10000"))))
