"""A permutation test over voxels: how long it takes, from a measured part of its permutations.

20,000 voxels × 60 subjects × 2 visits, y ~ visit + (1 | subject), 1,000 permutations by signs of whole subjects with
the largest |t|; complete, and with 3 % of the values missing in each voxel. What is measured is a test of so many
permutations (compiled before), less the fits of the null model, which are made once; the rest is in proportion.

    python permutation.py [--voxels 20000] [--subjects 60] [--permutations 1000] [--measured 20] [--repeats 3]

prints a line per case: seconds for the measured part (the shortest of the repeats), fits per second, the whole
extrapolated, and the load of the machine, without which the figure says nothing.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import pandas as pd

import jaxmm as mm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--measured", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--missing", type=float, nargs="*", default=[0.0, 0.03])
    asked = parser.parse_args()
    rng = np.random.default_rng(1)
    subject = np.repeat(np.arange(asked.subjects), 2)
    table = pd.DataFrame({"subject": subject, "visit": np.tile([0.0, 1.0], asked.subjects)})
    Y = rng.normal(size=(asked.voxels, asked.subjects))[:, subject] + rng.normal(size=(asked.voxels, len(table)))
    model = mm.Model.from_formula("y ~ visit + (1 | subject)", table.assign(y=Y[0]))
    for share in asked.missing:
        own = np.where(rng.uniform(size=Y.shape) < share, np.nan, Y)
        measured(model, own, share, asked)


def measured(model: mm.Model, Y: np.ndarray, share: float, asked: argparse.Namespace) -> None:
    def seconds(n: int) -> float:
        began = time.perf_counter()
        found = mm.permutation_test(model, Y, "visit", key=1, n=n, progress=False)
        assert found.failed == 0 and found.frame["status"].eq("converged").all()
        return time.perf_counter() - began

    first = seconds(asked.measured)
    small = max(2, asked.measured // 10)
    seconds(small)
    base = min(seconds(small) for _ in range(asked.repeats))
    part = min(seconds(asked.measured) for _ in range(asked.repeats))
    each = (part - base) / (asked.measured - small)
    whole = part + each * (asked.permutations - asked.measured)
    print(
        f"missing {share:.0%}: first call {first:.1f} s, {asked.measured} permutations of {asked.voxels:,} voxels "
        f"{part:.2f} s, {asked.voxels / each:,.0f} fits/s; {asked.permutations:,} permutations extrapolated "
        f"{whole:.0f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        flush=True,
    )


if __name__ == "__main__":
    main()
