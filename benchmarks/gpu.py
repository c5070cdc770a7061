"""Many fits of one design with jaxmm on an accelerator: the tasks of `batches.py`, in batches of a hundred thousand.

    python benchmarks/gpu.py [TASK ...]             on whatever accelerator JAX sees; without one it says so and ends
    python benchmarks/gpu.py --device cpu --small   a trial of the script itself

Responses lie in the device's memory and are taken in turns, as many as the calls ask for; a simulation draws its own
there. A call ends when its results are NumPy arrays on the host. The first of the responses are also fitted on the CPU
of the same machine: `largest_gap` is the largest difference of a deviance from that. Each task runs in this one
process, and everything is written to `results/gpu-<run>.json` after each of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

import batches
import jax
import jax.numpy as jnp
import measure
import numpy as np
import report
import run as driver
import throughput
from libraries import jaxmm_ as library

sys.path.insert(0, str(driver.HERE.parent))
from jaxmm.sources.responses import Responses, Varying

PROBE, MOST = 1 << 17, 1 << 23  # responses of the first calls, and of one call at most


class InTurns(Responses):
    """Responses k, k + 1, .. of ``n`` are rows of Y (lanes, nobs), from the first again after the last."""

    def __init__(self, Y: np.ndarray, n: int):
        self.Y, self.n = Y, n
        self.held: dict = {}

    def block(self, first: int, size: int) -> Varying:
        where = jax.config.jax_default_device
        if where not in self.held:
            self.held[where] = jnp.asarray(self.Y)
        at = (first + np.arange(size)) % len(self.Y)
        return Varying(jnp.take(self.held[where], at, axis=0))

    def identity(self) -> dict:
        return {"responses": "in turns", "n": self.n}


def task(batch: batches.Batch, way: str, device: str, probe: int, most: int, seconds: float) -> dict:
    """Rates of one task in one way."""
    if batch.simulated:
        folder = batches.stage(batch, driver.CACHE)
        simulation = library.simulates(batch, throughput.data_frame(batch, folder), way, control={"device": device})
        done = throughput.passes(simulation, probe, most, seconds)
        return done | {"power": done.pop("found").power}
    folder = batches.stage(batch, driver.CACHE)
    frame, Y = throughput.data_frame(batch, folder), np.array(batches.responses(batch, folder))
    fits = library.refits(batch, frame, way, control={"device": device})
    source = InTurns(Y, probe)

    def run(n: int, seconds: float):
        source.n = n
        return fits(source, seconds)

    done = throughput.passes(run, probe, most, seconds)
    found = done.pop("found")
    common = min(batch.common, probe)
    on_cpu = library.refits(batch, frame, way, control={"device": "cpu"})(Y[:common], seconds)
    gaps = np.asarray(found.deviance[:common]) - on_cpu.deviance
    return done | {
        "compared": common,
        "largest_gap": float(np.max(np.abs(gaps))),
        "not_converged": int(np.sum(~found.converged[:common])),
        "not_converged_share": float(np.mean(~found.converged)),
    }


def memory(device) -> float | None:
    """Megabytes of the device that were in use at most, by its own count since the process began."""
    stats = device.memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20


def arguments(given: list[str] | None) -> argparse.Namespace:
    tasks = [name for name, batch in batches.BATCHES.items() if batch.kind != "stream"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="*", metavar="TASK", help=f"all, or of {', '.join(tasks)}")
    parser.add_argument("--device", default="auto", help="auto (the accelerator), gpu, tpu, cpu")
    parser.add_argument("--small", action="store_true", help="a few hundred fits of each task")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one pass; there are three")
    parser.add_argument("--out", type=Path, default=driver.HERE / "results")
    options = parser.parse_args(given)
    for name in options.task:
        if name not in (*tasks, "all"):
            parser.error(f"no task named {name!r}; there are {', '.join(tasks)}")
    options.task = tasks if not options.task or "all" in options.task else options.task
    return options


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    try:
        devices = jax.devices() if options.device == "auto" else jax.devices(options.device)
    except RuntimeError as error:
        print(f"nothing measured: JAX sees no {options.device} here ({str(error).splitlines()[0]})")
        return
    if options.device == "auto" and devices[0].platform == "cpu":
        print("nothing measured: JAX sees no accelerator here, only the CPU (--device cpu --small tries the script)")
        return
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    kinds = sorted({device.device_kind for device in devices})
    record = {
        "run": stamp,
        "commit": driver.commit(),
        "devices": f"{len(devices)} x {', '.join(kinds)} ({devices[0].platform})",
        "machine": driver.machine(),
        "versions": measure.versions(),
        "small": options.small,
        "rows": [],
    }
    print(f"{record['devices']}; {record['versions']}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu-{stamp}.json"
    probe, most, seconds = (200, 400, 0.1) if options.small else (PROBE, MOST, options.seconds)
    for batch in map(batches.BATCHES.get, options.task):
        for way in library.ways(batch):
            row = {"task": batch.name, "peer": "jaxmm", "way": way}
            try:
                row |= {"status": "ok", **task(batch, way, options.device, probe, most, seconds)}
            except Exception as error:  # the other tasks go on
                said = " ".join(str(error).split())[:200]
                row["status"] = f"failed: {type(error).__name__}: {said}"
            row |= {"peak_device_mb": memory(devices[0]), "peak_mb": measure.memory_mb("VmHWM")}
            record["rows"].append(row)
            gap = f", largest gap to the CPU {row['largest_gap']:.1e}" if "largest_gap" in row else ""
            print(report.rate_line(row) + gap, flush=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
