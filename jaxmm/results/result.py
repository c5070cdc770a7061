"""FitBatch: what many fits of one design gave, as arrays with a leading replicate axis."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.frames import as_backend
from jaxmm.inference import wald
from jaxmm.optimize import Status
from jaxmm.results import dispersion, exports, moderation, testing
from jaxmm.results.dispersion import ShrunkenDispersions
from jaxmm.results.files import ArrayFile, write_arrays
from jaxmm.results.kept import absent, unpacked
from jaxmm.results.moderation import Moderated
from jaxmm.results.replicate import Replicate
from jaxmm.results.schema import Column, Names, blank, completed, schema
from jaxmm.sources.labelled import Labels

if TYPE_CHECKING:
    import xarray

Annotated = TypeVar("Annotated")  # an AnnData, given and returned
_SHOWN = 12  # estimates in a printed batch


@dataclass(frozen=True, eq=False, repr=False)
class FitBatch(_text.Printed):
    """Many fits of one design; every array has the replicates first.

    Attributes:
        names: of the columns.
        columns: name -> array, of each column that ``schema.DECLARED`` has; each is an attribute too,
            of which the shapes are:
        replicate (n,): the number of each replicate, from 0.
        fixef (n, p): estimates of the fixed effects.
        bse (n, p): their standard errors.
        theta (n, m): as ``Fit.theta``.
        sigma (n,): residual standard deviation, 1 where the family has none.
        dispersion (n,): φ, the first where there are several, NaN where the family has none.
        family_params (n, k): the family's other parameters, as ``Fit.family_params``; mostly there are none, k = 0.
        nobs (n,): rows that count in the replicate; 0 in a file from before it was kept.
        loglik (n,): restricted where the model is.
        varcorr_sd (n, s): standard deviations of the random effects.
        varcorr_corr (n, c): their correlations.
        is_singular (n,): as ``Fit.is_singular``.
        status (n,): ``Status`` numbers. Where a fit failed every estimate is NaN.
        iterations (n,): of the search.
        fixef_cov (n, r(r + 1)/2), df (n, p), df_sigma (n,), log_dispersion_se (n,): where they were asked for, by
            ``fit_many(..., keep=)`` (``results.kept``).
        labels: what the responses are called, where they came with names (``sources.labelled``).

    Example:
        >>> batch = mm.fit_many(fit, fit.simulate(4, key=1), progress=False)
        >>> batch.converged.tolist(), batch.fixef.shape
        ([True, True, True, True], (4, 2))
    """

    names: Names
    columns: Mapping[str, np.ndarray]
    labels: Labels | None = field(default=None, kw_only=True)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> np.ndarray: ...

    else:

        def __getattr__(self, name):
            if says := absent(name):
                raise AttributeError(says, name=name, obj=self)
            return object.__getattribute__(self, name)  # raises what a property has raised

    def __post_init__(self):
        columns = completed(self.names, self.columns)
        self.__dict__.update(columns, columns=columns)

    def __len__(self) -> int:
        return len(self.replicate)

    def __dir__(self) -> list[str]:
        """What completion shows: all but what other modules call."""
        return sorted(set(super().__dir__()) - {"of_file", "with_columns", "write"})

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

    def vcov(self, k: int | None = None) -> np.ndarray:
        """Covariance of the fixed effects of the replicate in row ``k``, (p, p); of all, (n, p, p), where None.

        Raises:
            AttributeError: it was not kept: ``fit_many(..., keep="vcov")``.

        Example:
            >>> mm.fit_many(fit, fit.simulate(4, key=1), keep="vcov", progress=False).vcov(0).shape
            (2, 2)
        """
        packed = self.fixef_cov
        return unpacked(packed if k is None else packed[operator.index(k)], len(self.names.fixef))

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, of every array."""
        return dict(self.columns)

    def with_columns(self, **arrays: np.ndarray) -> Self:
        """The same with other arrays in the place of some."""
        return replace(self, columns={**self.columns, **arrays})

    def take(self, index: Any) -> Self:
        """The replicates of an index or mask."""
        labels = None if self.labels is None else self.labels.take(index)
        return replace(self, columns={name: x[index] for name, x in self.columns.items()}, labels=labels)

    def __getitem__(self, k: int) -> Replicate:
        """The replicate in row k; ``take`` for several."""
        try:
            k = operator.index(k)
        except TypeError:
            raise TypeError(f"a batch is indexed by one whole number, not {k!r}: use take() for several") from None
        if not -len(self) <= k < len(self):
            raise IndexError(f"there is no replicate {k}: the batch has {len(self)}")
        return self._replicate(k % len(self))

    def __iter__(self) -> Iterator[Replicate]:
        return (self._replicate(k) for k in range(len(self)))

    def _replicate(self, k: int) -> Replicate:
        return Replicate(self.names, {name: x[k] for name, x in self.columns.items()})

    # ------------------------------------------------------------ tables
    def estimates(self) -> dict[str, np.ndarray]:
        """Name in tables -> (n,) of what is estimated, without the standard errors."""
        return self._tabled(lambda column: column.estimate)

    def _tabled(self, wanted: Callable[[Column], bool]) -> dict[str, np.ndarray]:
        columns = {name: column for name, column in schema(self.names).items() if wanted(column)}
        return {label: x for name, c in columns.items() for label, x in c.tabled(self.columns[name]).items()}

    def test_table(
        self,
        coef: str | Sequence[str] | None = None,
        adjust: str | None = "fdr_bh",
        labels: Sequence[Any] | None = None,
        *,
        ddf: str | None = None,
        level: float | None = None,
        backend: str = "pandas",
    ) -> pd.DataFrame:
        """A row per response and coefficient: ``estimate, se, z, p, p_adjusted, is_singular, status``.

        The responses are many measurements on one design (voxels, genes, electrode by time). p is Wald's, two-sided and
        normal, or of a t with Satterthwaite's degrees of freedom where ``fit_many(..., keep="df")`` kept these, with
        the columns ``df, t`` in the place of ``z``; it is adjusted over the responses, for each coefficient by itself.
        A fit that did not converge has NaN for p and is not counted.

        Args:
            coef: a coefficient or several; all where None.
            adjust: how, see ``multiplicity.adjust``.
            labels: (n,) of the responses, in the column "response"; where None those that they came with, under the
                names of their dimensions, or else their numbers.
            ddf: "satterthwaite" or "asymptotic", the normal distribution; None takes the first where it was kept.
            level: of an interval of each estimate by itself, in the columns ``lower, upper``; none where None.
            backend: "pandas" or "polars".

        Raises:
            ValueError: a coefficient that the model has not; labels of another number than the responses; degrees of
                freedom that were not kept.

        Example:
            >>> batch = mm.fit_many(fit, fit.simulate(2, key=1), keep="df", progress=False)
            >>> batch.test_table("Days")["df"].round(1).tolist()
            [17.0, 17.0]
        """
        df = testing.degrees(self, ddf)
        return testing.table(self, self.bse, df, coef=coef, adjust=adjust, labels=labels, level=level, backend=backend)

    def moderate(self, trend: Any = None) -> Moderated:
        """Squared standard errors drawn to what they are in the other responses: limma's empirical Bayes.

        It pays where each response has few degrees of freedom (few donors, subjects, sites) and there are many
        responses. Each coefficient is moderated by itself: its squared standard error counts as a variance with its
        Satterthwaite degrees of freedom. Where a coefficient varies within the levels of one design, and in a model
        whose errors are all σ, that is limma's moderation of σ². Responses without a converged fit are left out, and
        have NaN.

        Args:
            trend: (n,) what variances depend on, as the mean of each response, ``Y.mean(axis=1)``; or the name of a
                coefficient whose estimates are taken; None for one s0² for all.

        Returns:
            ``Moderated``, whose ``test_table()`` has the tests.

        Raises:
            ValueError: no degrees of freedom were kept; a generalised model; a trend of another length, constant, or
                not finite where there is a fit; fewer than three usable responses.

        Smyth (2004), Stat. Appl. Genet. Mol. Biol. 3(1), 3; the trend as Law et al. (2014), Genome Biol. 15, R29.

        Example:
            >>> batch = mm.fit_many(fit, fit.simulate(20, key=1), keep="df", progress=False)
            >>> batch.moderate().bse.shape
            (20, 2)
        """
        return moderation.moderate(self, trend)

    def shrink_dispersion(self, trend: Any = None) -> ShrunkenDispersions:
        """The φ of each response drawn to what it is in the others: empirical Bayes on log φ, a normal prior.

        It needs ``fit_many(..., keep="dispersion_se")``. The fits are not made again: their coefficients and standard
        errors are those with each response's own φ. Where the data do not tell φ it is that of the prior; where the
        fit did not converge it is NaN.

        Args:
            trend: (n,) what log φ depends on, as the logarithm of the mean count; or the name of a coefficient whose
                estimates are taken; None for one centre for all.

        Returns:
            ``ShrunkenDispersions``.

        Raises:
            AttributeError: standard errors of log φ were not kept.
            ValueError: a linear model; a trend of another length, constant, or not finite where there is a fit; fewer
                than five usable responses.

        After Love, Huber & Anders (2014), Genome Biol. 15, 550, with the likelihood's quadratic in its place.
        """
        return dispersion.shrink(self, trend)

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """One row per replicate: estimates, standard errors (``se_…``), variance components, status.

        After ``replicate``, its number, stand the labels of the responses, where they came with some.
        ``backend``: "pandas" or "polars".
        """
        table = pd.DataFrame(self._tabled(lambda _: True))
        for at, (name, own) in enumerate(() if self.labels is None else self.labels.columns().items(), 1):
            table.insert(at, name, own)  # pyright: ignore
        table["status"] = [Status(int(s)).name.lower() for s in self.status]
        table.insert(table.columns.get_loc("is_singular"), "converged", self.converged)  # pyright: ignore
        return as_backend(table, backend)

    def to_xarray(self) -> xarray.Dataset:
        """An ``xarray.Dataset`` with the dimensions and coordinates of the responses, and ``coef``, ``sd``, ``corr``.

        Responses without labels have the dimension ``replicate``. Cells of which there is no replicate, as after
        ``take``, are NaN. ``batch.to_xarray()["fixef"].sel(coef="Days")``

        Raises:
            ImportError: xarray is not installed.
            ValueError: a dimension has the name of a result.
        """
        return exports.to_xarray(self)

    def annotate(self, adata: Annotated, prefix: str = "") -> Annotated:
        """Write the results into ``adata.var``, a column each, and return ``adata``: estimates, ``se_…``, ``z_…``
        (or ``df_…`` and ``t_…``), ``p_…``, ``p_adjusted_…`` (Benjamini & Hochberg), variance components, ``status``.
        The covariance of the fixed effects goes into ``adata.varm["fixef_cov"]``, lower triangle by columns, where it
        was kept.

        Variables that were not fitted have NaN. ``prefix`` is put before the names of the columns.

        Raises:
            ValueError: variables that ``adata`` has not, or a batch without names of variables.
        """
        return exports.annotate(self, self.test_table(), adata, prefix)

    def summary(self) -> pd.DataFrame:
        """Over the converged replicates: ``mean``, ``sd`` (divisor n - 1), and ``mean_se`` of the fixed effects.

        A correlation counts where it exists: not where a standard deviation is estimated as zero.
        """
        rows = {}
        for name, x in self.estimates().items():
            x = x[self.converged]
            x = x[~np.isnan(x)]
            rows[name] = (x.mean() if len(x) else np.nan, x.std(ddof=1) if len(x) > 1 else np.nan, np.nan)
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", "mean_se"])
        if np.any(self.converged):
            table.iloc[: len(self.names.fixef), 2] = self.bse[self.converged].mean(axis=0)
        return table

    def _parts(self) -> list[str | _text.Grid]:
        n, counts = len(self), Counter(self.status.tolist())
        criterion = "restricted" if self.names.reml else "maximum"
        parts: list[str | _text.Grid] = [f"FitBatch of {n} replicate{'s' if n != 1 else ''}, by {criterion} likelihood"]
        parts += [f"  {count} {Status(s).message}" for s, count in sorted(counts.items())]
        parts += [f"  {np.sum(self.is_singular)} singular"]
        table = self.summary()
        shown = table.iloc[:_SHOWN]
        if counts[Status.CONVERGED]:
            cells = [_text.number_column(shown[c].to_numpy(), 4) for c in ("mean", "sd")]
            of = "" if counts[Status.CONVERGED] == n else "of the converged"
            rows = [(of, "mean", "SD"), *zip(shown.index, *cells, strict=True)]
            parts += ["", _text.Grid(rows, [False, True, True])]
            parts += [f"... {len(table) - _SHOWN} more: summary()"] if len(table) > _SHOWN else []
        return parts

    # ------------------------------------------------------------ files
    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write everything to one Parquet file, exactly; ``jaxmm.load`` reads it.

        The file is a plain table to other programs too, with a column for each number of a replicate. It appears
        under its name whole or not at all.

        Args:
            path: the file's, such as "results.parquet", in a folder that there is.
            overwrite: whether a file that is there may be replaced.

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
        """As ``save`` to ``path``, without its questions, unless ``overwrite`` is False."""
        columns = schema(self.names)
        arrays = {name: np.asarray(x, columns[name].kind) for name, x in self.columns.items()}
        for name in [name for name, c in columns.items() if c.optional and c.labels == ()]:
            del arrays[name]  # so that a file of what was there before is one as it was before
        about = {"names": asdict(self.names)}
        if self.labels is not None:
            about["labels"] = self.labels.as_json()
        write_arrays(path, arrays, self.names.columns(), about, overwrite)

    @classmethod
    def of_file(cls, file: ArrayFile, arrays: dict[str, np.ndarray]) -> FitBatch:
        """The arrays read, or to be read, from a file, with its names.

        Raises:
            ValueError: it is not a file of fits.
        """
        try:
            names = Names.of_json(file.about["names"])
            found = cls(names, arrays, labels=Labels.of_json(file.about.get("labels")))
            for name, column in schema(names).items():
                if found.columns[name].shape[1:] != column.blank(0).shape[1:]:
                    raise ValueError(name)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            other = f"'{file.path}' holds no fits: jaxmm {file.about['version']} wrote something else there"
            raise ValueError(other) from None
        return found


def concatenate(parts: list[FitBatch]) -> FitBatch:
    """Several as one, sorted by replicate."""
    joined = {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns}
    order = np.argsort(joined["replicate"], kind="stable")
    return FitBatch(parts[0].names, {name: x[order] for name, x in joined.items()})


def no_fits(names: Names) -> FitBatch:
    """A batch without replicates."""
    return FitBatch(names, blank(names, 0))
