"""A specification in TOML -> the arguments of ``study``.

    formula = "y ~ arm * week + (week | patient)"
    n = 10_000
    key = 1
    out = "results"                    # a folder, beside this file

    [design]                           # as make_design, or  data = "trial.csv"  in its place
    levels = { patient = 60 }
    within = { week = [0, 1, 2, 4] }
    between = { patient = { arm = ["placebo", "drug"] } }

    [truth]
    fixef = { "(Intercept)" = 10.0, armdrug = 0.0, week = 0.1, "armdrug:week" = 0.5 }
    sd = { patient = [2.0, 0.5] }
    sigma = 1.5

Paths are as from the folder of the file.  An error names the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jaxmm.design import DataError
from jaxmm.optimize import as_control
from jaxmm.sources.truth import as_truth
from jaxmm.studies.designs import make_design, plan
from jaxmm.studies.hypotheses import columns_of
from jaxmm.studies.study import study
from jaxmm.studies.study_result import StudyResult

NUMBER, TEXT, LIST, TABLE = (int, float), (str,), (list,), (dict,)
MODEL = {
    "family": TEXT, "dispersion": TEXT, "zero_inflation": TEXT, "weights": TEXT, "offset": TEXT,
    "reml": (bool,), "n_agq": (int, str), "contrasts": TABLE,
}  # fmt: skip
STUDY = {
    "key": (int,), "n": (int,), "lrt": (str, list), "level": NUMBER, "alpha": NUMBER, "batch": (int,), "control": TABLE,
}  # fmt: skip
DESIGN = {
    "levels": TABLE, "within": TABLE, "between": TABLE, "counterbalance": (bool, list), "repeats": (int,),
}  # fmt: skip
TRUTH = {
    "fixef": (dict, list), "sd": (dict, list, int, float), "corr": (dict, list, int, float), "sigma": NUMBER,
    "dispersion": (dict, list, int, float), "zero_inflation": (dict, list), "family_params": (dict, list),
}  # fmt: skip
TOP = {"formula": TEXT, "data": TEXT, "design": TABLE, "truth": TABLE, "out": TEXT} | MODEL | STUDY
NEEDED = ("formula", "n", "key", "truth")
READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv, ".tsv": lambda path: pd.read_csv(path, sep="\t"), ".parquet": pd.read_parquet,
}  # fmt: skip


class SpecError(ValueError):
    """What a specification says and cannot be; the message has its path and the key."""


@dataclass(frozen=True)
class Spec:
    """A specification that was read: ``entries`` by key; ``path`` is the file's."""

    path: Path
    entries: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Raises SpecError: no file, no TOML, a key that is not known, lacking, or has a value of another kind."""
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"'{path}' cannot be read ({error})") from error
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"'{path}' is not TOML: {error}") from error
        spec = cls(path, entries)
        spec._check("", entries, TOP)
        for name, known in (("design", DESIGN), ("truth", TRUTH)):
            spec._check(f"{name}.", entries.get(name, {}), known)
        for name in NEEDED:
            if name not in entries:
                raise spec.error(name, "is lacking; " + _needed(TOP[name]))
        if ("data" in entries) == ("design" in entries):
            there = "both are there" if "data" in entries else "neither is there"
            raise spec.error("data", f"or design says which rows the study has, one of the two, and {there}")
        return spec

    def error(self, key: str, what: object) -> SpecError:
        return SpecError(f"'{self.path}': {key} {what}")

    def _check(self, prefix: str, entries: dict[str, Any], known: dict[str, tuple[type, ...]]) -> None:
        for name, value in entries.items():
            if name not in known:
                raise self.error(prefix + name, f"is not known; there are {', '.join(known)}")
            if not isinstance(value, known[name]) or (isinstance(value, bool) and bool not in known[name]):
                raise self.error(prefix + name, f"is {value!r}; {_needed(known[name])}")

    @property
    def out(self) -> Path | None:
        """The folder of results."""
        return self.path.parent / self.entries["out"] if "out" in self.entries else None

    def model(self) -> Any:
        """Raises SpecError: no such table or column, a formula that cannot be read, an unknown family."""
        keywords = {name: self.entries[name] for name in MODEL if name in self.entries and name != "family"}
        table = self._table()
        with self._blaming(", ".join(["formula", *(name for name in MODEL if name in self.entries)])):
            return plan(self.entries["formula"], table, self.entries.get("family"), **keywords)

    def _table(self) -> pd.DataFrame:
        if "design" in self.entries:
            with self._blaming("design"):
                return make_design(**self.entries["design"])
        path = self.path.parent / self.entries["data"]
        if path.suffix not in READERS:
            raise self.error("data", f"is '{path.name}': a table is read from {', '.join(READERS)}")
        try:
            return READERS[path.suffix](path)
        except (OSError, ValueError) as error:
            raise self.error("data", f"cannot be read from '{path}' ({error})") from error

    def run(self, out: Path | None, shard: Any = None, progress: bool = True) -> StudyResult:
        """The study, or a shard of it.

        Raises:
            SpecError: as ``model``; a truth or a number that ``study`` does not take.
        """
        model, options = self.model(), {name: self.entries[name] for name in STUDY if name in self.entries}
        asked = options.get("lrt", [])
        options["lrt"] = [
            tuple(x) if isinstance(x, list) else x for x in ([asked] if isinstance(asked, str) else asked)
        ]
        with self._blaming("truth"):
            truth = as_truth(model, self.entries["truth"])
        with self._blaming("lrt"):
            for one in options["lrt"]:
                columns_of(model.design, one)
        with self._blaming("control"):
            as_control(options.get("control"))
        for name in ("level", "alpha", "batch", "n"):
            if name in options and not 0 < options[name] < (1 if name in ("level", "alpha") else float("inf")):
                least = "between 0 and 1" if name in ("level", "alpha") else "positive"
                raise self.error(name, f"is {options[name]!r}; it must be {least}")
        return study(model, truth, out=out, shard=shard, progress=progress, **options)

    @contextmanager
    def _blaming(self, key: str) -> Iterator[None]:
        try:
            yield
        except (DataError, TypeError, ValueError) as error:
            raise self.error(key, f"cannot be used: {error}") from error


def _needed(kinds: tuple[type, ...]) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    words = [names.get(kind, "a table") for kind in kinds if kind is not int or float not in kinds]
    return "it must be " + " or ".join(words)
