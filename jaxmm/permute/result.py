"""PermutationResult: what a permutation test found, as a table, clusters, a null distribution, a picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.frames import as_backend
from jaxmm.optimize import Status
from jaxmm.permute import picture
from jaxmm.permute.statistics import Mass, Score
from jaxmm.permute.tally import Tally
from jaxmm.sources.labelled import Labels

if TYPE_CHECKING:
    import xarray

_SHOWN = 10  # rows in a printed result


@dataclass(frozen=True, eq=False, repr=False)
class PermutationResult(_text.Printed):
    """A term tested in V responses by n permutations; from ``permutation_test``.

    Attributes:
        formula: of the model.
        columns: of X that were tested.
        scheme: how residuals were rearranged.
        statistic: what a family-wise p compares, as an object; its ``name`` is "max", "cluster" or "tfce".
        complete: whether every distinct arrangement was made once.
        step_down: whether ``p_fwe`` is step-down.
        tally: estimates of the data as they are, counts and maxima of the permutations.
        missing: (V,) rows that a response lacks.
        labels: what the responses are called, where they came with names.
        notes: what the reader should know, a sentence each.

    Example:
        >>> found = mm.permutation_test(fit, fit.simulate(5, key=1), "Days", key=1, n=20, progress=False)
        >>> found.n, found.null.shape, found.failed
        (20, (20,), 0)
    """

    formula: str
    columns: tuple[str, ...]
    scheme: str
    statistic: Score
    complete: bool
    step_down: bool
    tally: Tally
    missing: np.ndarray
    labels: Labels | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tally.t)

    @property
    def n(self) -> int:
        """Permutations, the data as they are among them."""
        return len(self.tally.null)

    @property
    def null(self) -> np.ndarray:
        """(n,) the largest score of each permutation, the first that of the data as they are."""
        return self.tally.null

    @property
    def failed(self) -> int:
        """How many fits of permuted responses failed, of n × V."""
        return self.tally.failed

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """Name -> (V,), the columns of ``frame`` after the labels."""
        t = self.tally
        own: dict[str, np.ndarray] = {}
        for j, name in enumerate(self.columns):
            of = "" if len(self.columns) == 1 else f"_{name}"
            own |= {f"estimate{of}": t.observed.estimate[:, j], f"se{of}": t.observed.se[:, j]}
        own["t" if len(self.columns) == 1 else "F"] = t.t
        if self.statistic.name != "max":
            own[self.statistic.name] = t.scores
        own |= {"p": t.p, "p_fwe": t.p_fwe(self.step_down)}
        if isinstance(self.statistic, Mass):
            own["cluster"] = self._clusters
        names = np.array([s.name.lower() for s in Status])
        return {**own, "missing": self.missing, "status": names[np.asarray(t.observed.status, int)]}

    @cached_property
    def _clusters(self) -> np.ndarray:
        """(V,) the number of each response's cluster from 1 on, the largest mass first; 0 in none."""
        assert isinstance(self.statistic, Mass)
        labels = self.statistic.labels(self.tally.t)
        order = dict.fromkeys(labels[np.argsort(-self.tally.scores, kind="stable")].tolist())
        number = {label: k for k, label in enumerate((x for x in order if x >= 0), 1)}
        return np.array([number.get(label, 0) for label in labels.tolist()])

    @property
    def frame(self) -> pd.DataFrame:
        """A row per response: its labels, ``estimate``, ``se``, ``t`` (``F`` of several columns), its score where that
        is not |t|, ``p`` by itself, ``p_fwe`` over all, the number of its ``cluster``, ``missing`` rows, ``status``."""
        return self.to_frame()

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``frame``; ``backend``: "pandas" or "polars"."""
        named = {"response": np.arange(len(self))} if self.labels is None else self.labels.columns()
        return as_backend(pd.DataFrame({**named, **self._columns}), backend)

    @property
    def clusters(self) -> pd.DataFrame:
        """A row per cluster, the largest first: ``cluster``, how many responses (``size``), ``sign``, ``mass``, the
        largest |t| (``peak``) and at which response (``at``, its number), ``p_fwe``.

        Raises:
            ValueError: the statistic is another one.
        """
        if not isinstance(self.statistic, Mass):
            raise ValueError(f"clusters are of statistic='cluster', and this is of {self.statistic.name!r}")
        t, p, own = self.tally.t, self.tally.p_fwe(False), self._clusters
        rows = []
        for number in range(1, own.max(initial=0) + 1):
            inside = np.flatnonzero(own == number)
            top = inside[np.argmax(np.abs(t[inside]))]
            mass = self.tally.scores[top]
            rows.append((number, len(inside), int(np.sign(t[top])), mass, abs(t[top]), top, p[top]))
        return pd.DataFrame(rows, columns=["cluster", "size", "sign", "mass", "peak", "at", "p_fwe"])

    def to_xarray(self) -> xarray.Dataset:
        """An ``xarray.Dataset`` of the columns of ``frame`` along the dimensions of the responses.

        Raises:
            ImportError: xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError("to_xarray needs xarray: pip install 'jaxmm[xarray]'") from error
        labels = self.labels or Labels.of("response", np.arange(len(self)))
        shape, dims = tuple(labels.shape.values()), tuple(labels.shape)
        data = {name: (dims, x.reshape(shape)) for name, x in self._columns.items()}
        return xarray.Dataset(data, labels.coords)

    def plot(self, axes: Any = None, level: float = 0.05) -> Any:
        """The null distribution of the largest score, with what was observed and the value that a score must reach at
        ``level``; returns the axes."""
        return picture.plot(self, axes, level)

    def critical(self, level: float = 0.05) -> float:
        """The least score whose family-wise p is at most ``level``; infinite where no permutation is so rare."""
        ranked = np.sort(np.where(np.isnan(self.null), -np.inf, self.null))
        most = int(np.floor(level * self.n + 1e-9))
        return float(ranked[self.n - most]) if most else np.inf

    def _parts(self) -> list[str | _text.Grid]:
        one = len(self.columns) == 1
        what = f"{'t' if one else 'F'} of {', '.join(self.columns)} in {len(self):,} responses"
        made = f"all {self.n:,} distinct arrangements" if self.complete else f"{self.n:,} permutations"
        parts: list[str | _text.Grid] = [
            f"Permutation test: {self.formula}",
            f"  {what}, {made}, scheme {self.scheme!r}, statistic {self.statistic.name!r}",
            *(f"  {note}" for note in self.notes),
        ]
        p = self._columns["p_fwe"]
        parts += [f"  {int(np.sum(p <= 0.05)):,} responses with p_fwe <= 0.05", ""]
        if isinstance(self.statistic, Mass):
            table = self.clusters
            parts[-1:] = [f"  {len(table)} clusters of {'|t|' if one else 'F'} >= {self.statistic.threshold:.4g}", ""]
        else:
            table = self.frame.iloc[np.argsort(-np.nan_to_num(self.tally.scores, nan=-1.0), kind="stable")]
            table = table.drop(columns=["missing", "status"])
        return [*parts, *_text.frame_parts(table.set_index(table.columns[0]), most=_SHOWN)]
