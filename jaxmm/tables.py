"""Estimates of the random effects with their labels: `VarCorr` (covariances), `RandomEffects` (modes).

With b_j (q,) the effects of level j of a grouping factor, b_j ~ N(0, D), j = 1..J:

    VarCorr          D (q, q), its standard deviations and correlations, and the residual sigma
    RandomEffects    the conditional modes b^_j (J, q) and the conditional covariances Var(b_j | y) (J, q, q)

The sample covariance of the modes is not an estimate of D: see `shrinkage`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.frames import as_backend

_HEADERS = {"variance": "Variance", "sd": "Std.Dev."}


@dataclass(frozen=True, eq=False)
class Block:
    """D of one grouping factor: `cov` (q, q) over the named effects, and where the model has a covariance, `estimated`
    (q, q) bool with a diagonal of True."""

    group: str
    effects: tuple[str, ...]
    cov: np.ndarray
    estimated: np.ndarray

    def __post_init__(self) -> None:
        q = len(self.effects)
        if np.shape(self.cov) != (q, q) or np.shape(self.estimated) != (q, q):
            raise ValueError(
                f"block '{self.group}': {q} effects, cov of shape {np.shape(self.cov)}, estimated of shape "
                f"{np.shape(self.estimated)}"
            )

    def sd(self) -> np.ndarray:
        return np.sqrt(np.diag(self.cov))

    def corr(self) -> np.ndarray:
        """(q, q); NaN where a standard deviation is zero, 0 where the model has no correlation."""
        return np.where(self.estimated, correlation(self.cov), 0.0)


class VarCorr:
    """The estimated covariances of the random effects, by grouping factor, and the residual SD.

    `cov`, `sd` and `corr` are dictionaries by factor. `sigma` None means a family without a residual.

    Example:
        >>> fit.varcorr().sd["Subject"].round(2).tolist()
        [24.74, 5.92]
    """

    def __init__(self, blocks: Sequence[Block], sigma: float | None):
        self.blocks = tuple(blocks)
        self.sigma = None if sigma is None else float(sigma)

    @property
    def cov(self) -> dict[str, pd.DataFrame]:
        """D by factor, effects × effects."""
        return {b.group: _square(b.cov, b.effects) for b in self.blocks}

    @property
    def sd(self) -> dict[str, pd.Series]:
        """Standard deviations by factor, in the units of η."""
        return {b.group: pd.Series(b.sd(), index=list(b.effects), name="sd") for b in self.blocks}

    @property
    def corr(self) -> dict[str, pd.DataFrame]:
        """Correlations by factor, effects × effects; NaN where a standard deviation is zero."""
        return {b.group: _square(b.corr(), b.effects) for b in self.blocks}

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """One row per parameter: group, effect1, effect2, cov, sdcor.

        Without effect2 the row is a variance and a standard deviation, else a covariance and a correlation.
        The residual comes last. ``backend``: "pandas" or "polars".
        """
        rows = []
        for b in self.blocks:
            sd, corr, estimated = b.sd(), b.corr(), b.estimated
            rows += [(b.group, e, None, b.cov[k, k], sd[k]) for k, e in enumerate(b.effects)]
            rows += [
                (b.group, b.effects[k], b.effects[l], b.cov[l, k], corr[l, k])
                for k, l in pairs(len(b.effects))
                if estimated[l, k]
            ]
        if self.sigma is not None:
            rows.append(("Residual", None, None, self.sigma**2, self.sigma))
        return as_backend(pd.DataFrame(rows, columns=["group", "effect1", "effect2", "cov", "sdcor"]), backend)

    def to_string(self, comp: Sequence[str] = ("variance", "sd"), digits: int = 4) -> str:
        """The table as text, with the columns of `comp` ("variance", "sd") and the correlations; `digits` are those of
        the standard deviations, of which the smallest has so many."""
        header, rows = self._cells(comp, digits)
        return "\n".join(" " + line for line in _text.align([header, *rows], [False] * len(header)))

    def _cells(self, comp: Sequence[str], digits: int) -> tuple[list[str], list[list[str]]]:
        unknown = [c for c in comp if c not in _HEADERS]
        if unknown:
            raise ValueError(f"unknown component {unknown[0]!r}: use 'variance', 'sd' or both")
        names, sd = [], []
        for b in self.blocks:
            names += [(b.group if k == 0 else "", e) for k, e in enumerate(b.effects)]
            sd += list(b.sd())
        if self.sigma is not None:
            names.append(("Residual", ""))
            sd.append(self.sigma)
        sds = np.array(sd)
        sds = np.where(sds < 1e-10 * np.max(sds, initial=0.0), 0.0, sds)  # rounding error prints as zero
        values = {"variance": sds**2, "sd": sds}
        columns = [_text.number_column(values[c], digits) for c in comp]
        corr = self._correlations(max(2, digits - 2), len(names))
        extra = len(corr[0])
        header = ["Groups", "Name", *(_HEADERS[c] for c in comp), *(["Corr", *[""] * (extra - 1)][:extra])]
        rows = [[*name, *(c[i] for c in columns), *corr[i]] for i, name in enumerate(names)]
        return header, rows

    def _correlations(self, decimals: int, n_rows: int) -> list[list[str]]:
        """Per row of the table the correlations with the effects before it; blank where there is none."""
        shown = {}
        row = 0
        for b in self.blocks:
            corr, estimated = b.corr(), b.estimated
            for l in range(len(b.effects)):
                shown.update({(row + l, k): corr[l, k] for k in range(l) if estimated[l, k]})
            row += len(b.effects)
        texts = dict(zip(shown, _text.fixed_column(list(shown.values()), decimals), strict=True))
        extra = max((k for _, k in shown), default=-1) + 1
        return [[texts.get((i, k), "") for k in range(extra)] for i in range(n_rows)]

    def __repr__(self) -> str:
        return self.to_string(("sd",), digits=5)

    def _repr_html_(self) -> str:
        header, rows = self._cells(("variance", "sd"), 5)
        return _text.html_table(header, rows, names=2)


class RandomEffects(Mapping[str, pd.DataFrame]):
    """The conditional modes of the random effects (BLUPs, in a linear mixed model) by grouping factor.

    `re[group]` is a frame of levels × effects. The conditional covariances are computed when first asked for.

    Example:
        >>> fit.ranef().cond_sd["Subject"].round(2).loc["308"].tolist()
        [12.07, 2.3]
    """

    def __init__(self, tables: Mapping[str, pd.DataFrame], cond_cov: Callable[[], Mapping[str, np.ndarray]]):
        """Args:
        tables: per factor a frame (J levels, q effects).
        cond_cov: makes per factor an array (J, q, q); called at most once.
        """
        self._tables = dict(tables)
        self._make_cond_cov: Callable[[], Mapping[str, np.ndarray]] | None = cond_cov
        self._cond_cov: dict[str, np.ndarray] | None = None

    def __getitem__(self, group: str) -> pd.DataFrame:
        if group not in self._tables:
            raise KeyError(f"no grouping factor {group!r}; there is {', '.join(map(repr, self._tables))}")
        return self._tables[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __contains__(self, group: object) -> bool:
        return group in self._tables

    @property
    def cond_cov(self) -> dict[str, np.ndarray]:
        """Per factor (J, q, q): the covariance of a level's effects given the data, β and θ."""
        if self._cond_cov is None:
            assert self._make_cond_cov is not None
            made = self._make_cond_cov()
            self._cond_cov = {g: np.asarray(made[g]) for g in self._tables}
            self._make_cond_cov = None
        return self._cond_cov

    @property
    def cond_sd(self) -> dict[str, pd.DataFrame]:
        """Per factor the conditional standard deviations, levels × effects."""
        return {
            g: pd.DataFrame(
                np.sqrt(np.maximum(np.diagonal(v, axis1=1, axis2=2), 0.0)),
                index=self._tables[g].index,
                columns=self._tables[g].columns,
            )
            for g, v in self.cond_cov.items()
        }

    def cov(self, group: str | None = None) -> pd.DataFrame:
        """The sample covariance of the modes (divisor J − 1); not an estimate of VarCorr, see `shrinkage`.

        Args:
            group: the grouping factor; may be left out where there is one only.
        """
        table = self[only_group(group, self._tables)]
        return _square(sample_cov(table.to_numpy()), table.columns)

    def corr(self, group: str | None = None) -> pd.DataFrame:
        """The sample correlations of the modes of ``group``, as ``cov``; NaN where an effect does not vary."""
        cov = self.cov(group)
        return _square(correlation(cov.to_numpy()), cov.columns)

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """One row per level and effect: group, level, effect, mode, cond_sd. ``backend``: "pandas" or "polars"."""
        sds = self.cond_sd
        frames = [
            pd.DataFrame(
                {
                    "group": g,
                    "level": np.repeat(np.asarray(t.index, dtype=object), t.shape[1]),
                    "effect": np.tile(np.asarray(t.columns, dtype=object), t.shape[0]),
                    "mode": t.to_numpy().ravel(),
                    "cond_sd": sds[g].to_numpy().ravel(),
                }
            )
            for g, t in self._tables.items()
        ]
        return as_backend(pd.concat(frames, ignore_index=True), backend)

    def __repr__(self) -> str:
        parts = []
        for g, t in self._tables.items():
            more = f"\n... {len(t) - 6} more levels" if len(t) > 6 else ""
            parts.append(f"{_size(g, t)}\n{t.head(6).to_string()}{more}")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        parts = []
        for g, t in self._tables.items():
            columns = [_text.number_column(t.iloc[:6, k].to_numpy(), 5) for k in range(t.shape[1])]
            rows = [[str(level), *(c[i] for c in columns)] for i, level in enumerate(t.index[:6])]
            header = ["", *map(str, t.columns)]
            parts.append(_text.paragraph(_size(g, t)) + _text.html_table(header, rows))
            parts += [_text.paragraph(f"... {len(t) - 6} more levels")] if len(t) > 6 else []
        return "".join(parts)

    def __getstate__(self) -> dict:
        return {"_tables": self._tables, "_make_cond_cov": None, "_cond_cov": self.cond_cov}


def pairs(q: int) -> list[tuple[int, int]]:
    """(k, l), k < l < q, column by column of the lower triangle."""
    return [(k, l) for k in range(q) for l in range(k + 1, q)]


def correlation(cov: np.ndarray) -> np.ndarray:
    """(q, q) correlations with a diagonal of one; NaN in the rows and columns of a zero variance."""
    sd = np.sqrt(np.diag(cov))
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = cov / np.outer(sd, sd)
    positive = sd > 0
    corr = np.where(np.outer(positive, positive), np.clip(scaled, -1.0, 1.0), np.nan)
    corr[np.diag_indices_from(corr)] = np.where(positive, 1.0, np.nan)
    return corr


def sample_cov(values: np.ndarray) -> np.ndarray:
    """(q, q) covariance of J rows about their mean, divisor J − 1."""
    centred = values - values.mean(axis=0)
    return centred.T @ centred / (len(values) - 1) if len(values) > 1 else np.full((values.shape[1],) * 2, np.nan)


def check_group(group: str, names: Mapping[str, object]) -> str:
    if group not in names:
        raise ValueError(f"no grouping factor {group!r}; there is {', '.join(map(repr, names))}")
    return group


def only_group(group: str | None, names: Mapping[str, object]) -> str:
    """`group`, or the only factor where it is None."""
    if group is None:
        if len(names) != 1:
            raise ValueError(f"several grouping factors: name one of {', '.join(map(repr, names))}")
        return next(iter(names))
    return check_group(group, names)


def _square(values: np.ndarray, labels: Sequence[str] | pd.Index) -> pd.DataFrame:
    return pd.DataFrame(np.asarray(values), index=list(labels), columns=list(labels))


def _size(group: str, table: pd.DataFrame) -> str:
    levels, effects = table.shape
    return f"{group}: {levels} levels × {effects} effect{'s' if effects != 1 else ''}"
