"""``python -m jaxmm``: a line of arguments -> a study, or what a folder of results holds.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxmm.command.spec import Spec, SpecError
from jaxmm.results.shards import Shard
from jaxmm.results.store import read_study, standing

DONE, FAILED, WRONG, UNFINISHED, STOPPED = 0, 1, 2, 3, 130
TEXT = f"""
exit codes: {DONE} done; {FAILED} failed; {WRONG} wrong arguments or specification; {UNFINISHED} results that are not \
complete; {STOPPED} Ctrl-C
"""
EXAMPLE = """
a specification:
  formula = "y ~ arm * week + (week | patient)"
  n = 10_000
  key = 1
  out = "results"
  lrt = ["arm:week"]
  [design]
  levels = { patient = 60 }
  within = { week = [0, 1, 2, 4] }
  between = { patient = { arm = ["placebo", "drug"] } }
  [truth]
  fixef = { "(Intercept)" = 10.0, armdrug = 0.0, week = 0.1, "armdrug:week" = 0.5 }
  sd = { patient = [2.0, 0.5] }
  sigma = 1.5

in the place of [design], data = "trial.csv" (.tsv, .parquet); more keys: family, dispersion, zero_inflation, weights,
offset, reml, n_agq, contrasts, level, alpha, batch, control
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; ``arguments`` as of the command line."""
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as ended:  # of argparse, which has said why
        return int(ended.code or 0)
    try:
        return given.run(given)
    except SpecError as error:
        return _say(error, WRONG)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on", STOPPED)
    except Exception as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        return _say(f"{type(error).__name__}: {error}{notes}", FAILED)


def _say(what: object, code: int) -> int:
    if sys.stderr is not None:
        print(f"jaxmm: {what}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m jaxmm", description="Studies of mixed models by simulation.", epilog=TEXT, formatter_class=raw
    )
    verbs = parser.add_subparsers(metavar="command", required=True)
    run = verbs.add_parser(
        "study",
        help="simulate, fit, compare with the truth",
        description="Run a study, or a shard of it; what is in its folder is not done again.",
        epilog=EXAMPLE + TEXT,
        formatter_class=raw,
    )
    run.add_argument("spec", type=Path, help="a file in TOML")
    run.add_argument("--shard", metavar="i/k", help="the i-th of k shares of the replicates, counted from 1")
    run.add_argument("--out", type=Path, help="the folder of results, in the place of the specification's")
    run.add_argument("--quiet", action="store_true", help="no bar of progress")
    run.set_defaults(run=_study)
    status = verbs.add_parser(
        "status", help="how much a folder holds", description="How many replicates there are, and which are lacking.",
        epilog=TEXT, formatter_class=raw,
    )  # fmt: skip
    status.add_argument("folder", type=Path)
    status.set_defaults(run=_status)
    collect = verbs.add_parser(
        "collect", help="print the tables of a study whose shards are done",
        description="Print what a study found, once all of its shards are done.",
        epilog=TEXT, formatter_class=raw,
    )  # fmt: skip
    collect.add_argument("spec", type=Path, help="the file in TOML that the shards had")
    collect.add_argument("--out", type=Path, help="the folder of results, in the place of the specification's")
    collect.add_argument("--table", type=Path, help="a CSV file for a row per replicate")
    collect.set_defaults(run=_collect)
    return parser


def _study(given: Any) -> int:
    spec = Spec.read(given.spec)
    out = given.out or spec.out
    try:
        shard = Shard.of(given.shard)
    except ValueError as error:
        return _say(f"--shard: {error}", WRONG)
    if shard.count > 1 and out is None:
        raise spec.error("out", "is lacking: a shard leaves its results in a folder; or give --out")
    found = spec.run(out, shard, not given.quiet)
    if shard.count > 1:
        print(f"{shard} is done: {len(found)} replicates in '{out}'")
    else:
        print(found)
    return DONE


def _status(given: Any) -> int:
    if not given.folder.is_dir():
        return _say(f"'{given.folder}' is no folder", WRONG)
    folders = [p for p in (given.folder, *sorted(given.folder.iterdir())) if p.is_dir() and read_study(p)]
    if not folders:
        return _say(f"'{given.folder}' holds no results of jaxmm, nor do the folders in it", WRONG)
    whole = True
    for folder in folders:
        text, complete = standing(folder)
        print(text)
        whole = whole and complete
    return DONE if whole else UNFINISHED


def _collect(given: Any) -> int:
    spec = Spec.read(given.spec)
    out = given.out or spec.out
    if out is None:
        raise spec.error("out", "is lacking: it is the folder that holds the results; or give --out")
    folders = [p for p in sorted(out.iterdir()) if p.is_dir() and read_study(p)] if out.is_dir() else []
    if not folders:
        return _say(f"'{out}' holds no results of a study", WRONG)
    lacking = [text for text, complete in map(standing, folders) if not complete]
    if lacking:
        return _say("not all shards are done:\n" + "\n".join(lacking), UNFINISHED)
    found = spec.run(out, progress=False)
    print(found)
    if given.table is not None:
        found.to_frame().to_csv(given.table, index=False)
    return DONE
