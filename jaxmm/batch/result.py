"""FitBatch: what many fits of one design gave, as arrays with a leading replicate axis."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.batch.files import ArrayFile, write_arrays
from jaxmm.batch.multiplicity import table_of_tests
from jaxmm.batch.replicate import Replicate
from jaxmm.covariance import free
from jaxmm.inference import wald
from jaxmm.optimize import Status
from jaxmm.tables import pairs

_KINDS = {"replicate": np.int64, "is_singular": np.bool_, "status": np.int8, "iterations": np.int32}
_SHOWN = 12  # estimates in a printed batch


@dataclass(frozen=True)
class Names:
    """What the columns of a ``FitBatch`` are called.

    ``sd`` holds (group, effect) of each standard deviation of ``varcorr_sd``, ``corr`` (group, effect, effect) of each
    correlation of ``varcorr_corr`` that the model has; ``has_scale`` whether ``sigma`` means something, ``has_phi``
    whether ``dispersion`` does; ``statistic`` is what ``tvalues`` are called, "t" or "z";
    ``family_params`` what the family's parameters after φ are.
    """

    fixef: tuple[str, ...]
    theta: int
    sd: tuple[tuple[str, str], ...]
    corr: tuple[tuple[str, str, str], ...]
    has_scale: bool
    has_phi: bool
    reml: bool
    statistic: str = field(default="t", compare=False)  # files from before it may hold parts of the same study
    family_params: tuple[str, ...] = ()

    def columns(self) -> dict[str, list[str]]:
        """What to call the columns of each array that has several."""
        return {
            "fixef": list(self.fixef),
            "bse": list(self.fixef),
            "theta": [str(k) for k in range(self.theta)],
            "varcorr_sd": [f"{effect}|{group}" for group, effect in self.sd],
            "varcorr_corr": [f"{a}.{b}|{group}" for group, a, b in self.corr],
            "family_params": list(self.family_params),
        }


@dataclass(frozen=True, eq=False)
class FitBatch:
    """Many fits of one design; every array has the replicates first.

    Attributes:
        names: of the columns.
        replicate: (n,) the number of each replicate, from 0.
        fixef, bse: (n, p) estimates and standard errors of the fixed effects.
        theta: (n, m) as ``Fit.theta``.
        sigma: (n,) residual standard deviation, 1 where the family has none.
        dispersion: (n,) φ, the first where there are several, NaN where the family has none.
        family_params: (n, k) the family's other parameters, as ``Fit.family_params``; mostly there are none, k = 0.
        loglik: (n,) restricted where the model is.
        varcorr_sd: (n, s) standard deviations of the random effects; varcorr_corr: (n, c) their correlations.
        is_singular: (n,) as ``Fit.is_singular``.
        status: (n,) ``Status`` numbers. Where a fit failed every estimate is NaN.
        iterations: (n,).
    """

    names: Names
    replicate: np.ndarray
    fixef: np.ndarray
    bse: np.ndarray
    theta: np.ndarray
    sigma: np.ndarray
    dispersion: np.ndarray
    loglik: np.ndarray
    varcorr_sd: np.ndarray
    varcorr_corr: np.ndarray
    is_singular: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    family_params: np.ndarray = field(default=None, kw_only=True)  # pyright: ignore[reportAssignmentType]

    def __post_init__(self):
        if self.family_params is None:
            nothing = np.full((len(self.replicate), len(self.names.family_params)), np.nan)
            object.__setattr__(self, "family_params", nothing)

    def __len__(self) -> int:
        return len(self.replicate)

    @property
    def converged(self) -> np.ndarray:
        """(n,)."""
        return self.status == Status.CONVERGED

    @property
    def deviance(self) -> np.ndarray:
        """(n,) -2 log-likelihood."""
        return -2 * self.loglik

    @property
    def zvalues(self) -> np.ndarray:
        """(n, p) estimates over their standard errors."""
        return wald.each(self.fixef, self.bse).statistic

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, of every array."""
        return {f.name: getattr(self, f.name) for f in fields(FitBatch) if f.name != "names"}

    def take(self, index: Any) -> FitBatch:
        """The replicates of an index or mask."""
        return replace(self, **{name: x[index] for name, x in self.arrays().items()})

    def __getitem__(self, k: int) -> Replicate:
        """The replicate in row k; ``take`` for several."""
        try:
            k = operator.index(k)
        except TypeError:
            raise TypeError(f"a batch is indexed by one whole number, not {k!r}: use take() for several") from None
        if not -len(self) <= k < len(self):
            raise IndexError(f"there is no replicate {k}: the batch has {len(self)}")
        return Replicate(self, k % len(self))

    def __iter__(self) -> Iterator[Replicate]:
        return (Replicate(self, k) for k in range(len(self)))

    # ------------------------------------------------------------ tables
    def _estimates(self) -> dict[str, np.ndarray]:
        """Label -> (n,) of what is estimated, without the standard errors."""
        labels = self.names.columns()
        out = {name: self.fixef[:, j] for j, name in enumerate(labels["fixef"])}
        out |= {f"sd_{name}": self.varcorr_sd[:, j] for j, name in enumerate(labels["varcorr_sd"])}
        out |= {f"cor_{name}": self.varcorr_corr[:, j] for j, name in enumerate(labels["varcorr_corr"])}
        if self.names.has_scale:
            out["sigma"] = self.sigma
        elif self.names.has_phi:
            out["dispersion"] = self.dispersion
        out |= {name: self.family_params[:, j] for j, name in enumerate(labels["family_params"])}
        return out

    def test_table(
        self,
        coef: str | Sequence[str] | None = None,
        adjust: str | None = "fdr_bh",
        labels: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """Wald tests with p-values adjusted over the responses; see ``multiplicity.table_of_tests``."""
        return table_of_tests(self, coef, adjust, labels)

    def to_frame(self) -> pd.DataFrame:
        """One row per replicate: estimates, standard errors (``se_…``), variance components, status."""
        estimates, p = list(self._estimates().items()), len(self.names.fixef)
        return pd.DataFrame(
            {
                "replicate": self.replicate,
                **dict(estimates[:p]),
                **{f"se_{name}": self.bse[:, j] for j, name in enumerate(self.names.fixef)},
                **dict(estimates[p:]),
                "loglik": self.loglik,
                "converged": self.converged,
                "is_singular": self.is_singular,
                "status": [Status(int(s)).name.lower() for s in self.status],
                "iterations": self.iterations,
            }
        )

    def summary(self) -> pd.DataFrame:
        """Over the converged replicates: ``mean``, ``sd`` (divisor n - 1), and ``mean_se`` of the fixed effects.

        A correlation counts where it exists: not where a standard deviation is estimated as zero.
        """
        rows = {}
        for name, x in self._estimates().items():
            x = x[self.converged]
            x = x[~np.isnan(x)]
            rows[name] = (x.mean() if len(x) else np.nan, x.std(ddof=1) if len(x) > 1 else np.nan, np.nan)
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", "mean_se"])
        if np.any(self.converged):
            table.iloc[: len(self.names.fixef), 2] = self.bse[self.converged].mean(axis=0)
        return table

    def __repr__(self) -> str:
        n, counts = len(self), Counter(self.status.tolist())
        criterion = "restricted" if self.names.reml else "maximum"
        lines = [f"FitBatch of {n} replicate{'s' if n != 1 else ''}, by {criterion} likelihood"]
        lines += [f"  {count} {Status(s).message}" for s, count in sorted(counts.items())]
        lines += [f"  {np.sum(self.is_singular)} singular"]
        table = self.summary()
        shown = table.iloc[:_SHOWN]
        if counts[Status.CONVERGED]:
            cells = [_text.number_column(shown[c].to_numpy(), 4) for c in ("mean", "sd")]
            rows = [("", "mean", "SD"), *zip(shown.index, *cells, strict=True)]
            over = "" if counts[Status.CONVERGED] == n else " (of the converged)"
            lines += ["", *_text.align(rows, [False, True, True], gap="  ")]
            lines[-len(rows)] += over
            lines += [f"... {len(table) - _SHOWN} more: summary()"] if len(table) > _SHOWN else []
        return "\n".join(lines)

    # ------------------------------------------------------------ files
    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write everything to one Parquet file, exactly; ``jaxmm.load`` reads it.

        The file is a plain table to other programs too, with a column for each number of a replicate. It appears
        under its name whole or not at all.

        Raises:
            FileExistsError: there is a file, and ``overwrite`` is False.
            FileNotFoundError: there is no such folder to put it into.
            ImportError: pyarrow is not installed.
        """
        path = Path(path)
        if path.is_dir():
            raise IsADirectoryError(f"'{path}' is a folder: give the name of a file in it, as results.parquet")
        if path.exists() and not overwrite:
            raise FileExistsError(f"'{path}' exists: choose another name, or overwrite=True to replace it")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder '{path.parent}' for '{path.name}': make it first")
        self.write(path, overwrite)

    def write(self, path: Path, overwrite: bool = True) -> None:
        """As ``save``, without its questions."""
        arrays = {name: np.asarray(x, _KINDS.get(name, np.float64)) for name, x in self.arrays().items()}
        if not self.names.family_params:
            del arrays["family_params"]
        write_arrays(path, arrays, self.names.columns(), {"names": asdict(self.names)}, overwrite)

    @classmethod
    def of_file(cls, file: ArrayFile, arrays: dict[str, np.ndarray]) -> FitBatch:
        """The arrays read, or to be read, from a file, with its names.

        Raises:
            ValueError: it is not a file of fits.
        """
        expected = {f.name for f in fields(cls)} - {"names", "family_params"}  # mostly there are none of these
        if "names" not in file.about or set(arrays) - {"family_params"} != expected:
            raise ValueError(f"'{file.path}' holds no fits: jaxmm {file.about['version']} wrote something else there")
        names = {"statistic": "t" if file.about["names"]["has_scale"] else "z", **file.about["names"]}  # older files
        lists = {key: tuple(names.get(key, ())) for key in ("fixef", "family_params")}
        pairs = {key: tuple(map(tuple, names[key])) for key in ("sd", "corr")}
        return cls(names=Names(**{**names, **lists, **pairs}), **arrays)


def concatenate(parts: list[FitBatch]) -> FitBatch:
    """Several as one, sorted by replicate."""
    joined = {name: np.concatenate([p.arrays()[name] for p in parts]) for name in parts[0].arrays()}
    order = np.argsort(joined["replicate"], kind="stable")
    return FitBatch(names=parts[0].names, **{name: x[order] for name, x in joined.items()})


def no_fits(names: Names) -> FitBatch:
    """A batch without replicates."""
    widths = {name: (len(labels),) for name, labels in names.columns().items()}
    kinds = {f.name: _KINDS.get(f.name, np.float64) for f in fields(FitBatch) if f.name != "names"}
    return FitBatch(names, **{name: np.zeros((0, *widths.get(name, ())), kind) for name, kind in kinds.items()})


def names_of(model: Any) -> Names:
    """The names of a model's batch."""
    d, family = model.design, model.likelihood.family
    factors = [d.factors[f] for f in dict.fromkeys(d.terms[t].factor for t, _ in model.theta_terms())]
    sd, corr = [], []
    for factor in factors:
        f = d.factors.index(factor)
        terms = [t for t in d.terms if t.factor == f]
        effects, related = [e for t in terms for e in t.effects], free(terms)
        sd += [(factor.name, e) for e in effects]
        corr += [(factor.name, effects[a], effects[b]) for a, b in pairs(len(effects)) if related[a, b]]
    return Names(
        fixef=tuple(d.columns),
        theta=model.structure.num_theta,
        sd=tuple(sd),
        corr=tuple(corr),
        has_scale=bool(family.has_scale),
        has_phi=bool(family.num_phi),
        reml=model.reml,
        statistic=model.likelihood.statistic,
        family_params=family.further_names,
    )
