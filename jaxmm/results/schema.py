"""What a batch holds of each replicate, declared once: lanes that have ended -> columns, with names.

    Names  --schema-->  name -> Column(labels, kind, shown, ..)        what there is, in the order of tables and files
    Found  --as_columns-->  name -> array (n,) or (n, k)               the numbers, replicates first

``DECLARED`` is the one list: files, tables, empty batches and single replicates are read off it, and a column that is
added there stands in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxmm.covariance import free
from jaxmm.diagnostics import SINGULAR
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Status
from jaxmm.results.kept import pairs_of
from jaxmm.tables import pairs

NO_ESTIMATE = (Status.NOT_FINITE, Status.INVALID, Status.NO_VARIATION, Status.TOO_FEW_ROWS, Status.ALIASED)


# ---------------------------------------------------------------- names
@dataclass(frozen=True)
class Names:
    """What the columns of a ``FitBatch`` are called.

    ``sd`` holds (group, effect) of each standard deviation of ``varcorr_sd``, ``corr`` (group, effect, effect) of each
    correlation of ``varcorr_corr`` that the model has; ``has_scale`` whether ``sigma`` means something, ``has_phi``
    whether ``dispersion`` does; ``statistic`` is what ``tvalues`` are called, "t" or "z";
    ``family_params`` what the family's parameters after φ are; ``further`` the coefficients of predictors after the
    mean's, such as "zi~x"; ``kept`` what was asked for
    besides (``results.kept``).
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
    further: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def linear(self) -> bool:
        """Whether they are of a linear model."""
        return self.statistic == "t" and self.has_scale

    def columns(self) -> dict[str, list[str]]:
        """What to call the numbers of each column that has several."""
        return {name: list(c.labels) for name, c in schema(self).items() if c.labels is not None}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Names:
        """As ``dataclasses.asdict`` gave them to a file, maybe an older one."""
        names = {"statistic": "t" if kept["has_scale"] else "z", **kept}
        lists = {key: tuple(names.get(key, ())) for key in ("fixef", "family_params", "further", "kept")}
        return cls(**{**names, **lists, **{key: tuple(map(tuple, names[key])) for key in ("sd", "corr")}})


def names_of(model: Any, keep: tuple[str, ...] = ()) -> Names:
    """The names of a model's batch; ``keep`` as of ``results.kept``."""
    d, family = model.design, model.likelihood.family
    factors, constant = list(_factors(model)), "phi" not in d.predictors
    return Names(
        fixef=tuple(d.columns),
        theta=model.structure.num_theta,
        sd=tuple((group, e) for group, effects, *_ in factors for e in effects),
        corr=tuple((group, effects[a], effects[b]) for group, effects, related, _ in factors for a, b in related),
        has_scale=bool(family.has_scale) and constant,
        has_phi=bool(family.num_phi) and constant,
        reml=model.reml,
        statistic=model.likelihood.statistic,
        family_params=family.constant_names,
        further=d.coefficients[len(d.columns) :],
        kept=keep,
    )


def _factors(model: Any) -> Iterator[tuple[str, tuple[str, ...], list[tuple[int, int]], int]]:
    """Of each grouping factor, in the order of theta: its name, its effects, the pairs of them that have a covariance,
    and its place in elimination order."""
    d, order = model.design, model.elimination.order
    for f in dict.fromkeys(d.terms[t].factor for t, _ in model.theta_terms()):
        terms = [t for t in d.terms if t.factor == f]
        effects, related = tuple(e for t in terms for e in t.effects), free(terms)
        yield d.factors[f].name, effects, [(a, b) for a, b in pairs(len(effects)) if related[a, b]], order.index(f)


def sd_label(group: str, effect: str) -> str:
    """A standard deviation, in tables."""
    return f"sd_{effect}|{group}"


def cor_label(group: str, a: str, b: str) -> str:
    """A correlation, in tables."""
    return f"cor_{a}.{b}|{group}"


# ---------------------------------------------------------------- columns
@dataclass(frozen=True)
class Column:
    """One of a batch's arrays.

    ``labels`` are those of the k numbers of a replicate, in files and of a ``Replicate``; None where there is one
    number.  ``shown``: what tables call them, () where they do not stand there.  ``estimate``: whether they are
    parameters of the model, which are summarised.  ``optional``: a batch may be made without it, and files may lack it:
    it is blank then.  ``of``: the name in ``keep`` that it belongs to, without which there is no such column.
    """

    labels: tuple[str, ...] | None = None
    kind: type = np.float64
    shown: tuple[str, ...] = ()
    estimate: bool = False
    optional: bool = False
    of: str | None = None

    def blank(self, n: int) -> np.ndarray:
        """Of n replicates of which nothing is known: NaN, 0, False."""
        shape = (n,) if self.labels is None else (n, len(self.labels))
        return np.full(shape, np.nan if self.kind is np.float64 else 0, self.kind)

    def tabled(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Name in tables -> (n,)."""
        return dict(zip(self.shown, (x if x.ndim > 1 else x[:, None]).T, strict=True)) if self.shown else {}


DECLARED: dict[str, Callable[[Names], Column]] = {
    "replicate": lambda names: Column(kind=np.int64, shown=("replicate",)),
    "fixef": lambda names: Column(names.fixef, shown=names.fixef, estimate=True),
    "bse": lambda names: Column(names.fixef, shown=tuple(f"se_{name}" for name in names.fixef)),
    "theta": lambda names: Column(tuple(map(str, range(names.theta)))),
    "varcorr_sd": lambda names: Column(
        tuple(f"{e}|{group}" for group, e in names.sd), shown=tuple(sd_label(*sd) for sd in names.sd), estimate=True
    ),
    "varcorr_corr": lambda names: Column(
        tuple(f"{a}.{b}|{group}" for group, a, b in names.corr),
        shown=tuple(cor_label(*pair) for pair in names.corr),
        estimate=True,
    ),
    "sigma": lambda names: Column(shown=("sigma",) if names.has_scale else (), estimate=True),
    "dispersion": lambda names: Column(
        shown=("dispersion",) if names.has_phi and not names.has_scale else (), estimate=True
    ),
    "family_params": lambda names: Column(names.family_params, shown=names.family_params, estimate=True, optional=True),
    "further": lambda names: Column(names.further, shown=names.further, estimate=True, optional=True),
    "further_bse": lambda names: Column(
        names.further, shown=tuple(f"se_{name}" for name in names.further), optional=True
    ),
    "nobs": lambda names: Column(kind=np.int64, shown=("nobs",), optional=True),
    "fixef_cov": lambda names: Column(pairs_of((*names.fixef, *names.further)), of="vcov"),
    "df": lambda names: Column(names.fixef, shown=tuple(f"df_{name}" for name in names.fixef), of="df"),
    "df_sigma": lambda names: Column(shown=("df_sigma",), of="df"),
    "log_dispersion_se": lambda names: Column(shown=("se_log_dispersion",), of="dispersion_se"),
    "loglik": lambda names: Column(shown=("loglik",)),
    "is_singular": lambda names: Column(kind=np.bool_, shown=("is_singular",)),
    "status": lambda names: Column(kind=np.int8, shown=("status",)),
    "iterations": lambda names: Column(kind=np.int32, shown=("iterations",)),
}


def schema(names: Names) -> dict[str, Column]:
    """Name -> column, of every column."""
    columns = {name: declared(names) for name, declared in DECLARED.items()}
    return {name: column for name, column in columns.items() if column.of is None or column.of in names.kept}


def completed(names: Names, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns in their order, blank where they are optional and not given.

    Raises:
        ValueError: a column is lacking, or there is one that nobody declared.
    """
    columns = schema(names)
    lacking = [name for name, c in columns.items() if name not in arrays and not c.optional]
    unknown = [name for name in arrays if name not in columns]
    if lacking or unknown:
        what = f"lacks {lacking[0]!r}" if lacking else f"has no column {unknown[0]!r}"
        raise ValueError(f"a batch {what}: its columns are {', '.join(columns)}")
    n = len(arrays["replicate"])
    return {name: arrays[name] if name in arrays else c.blank(n) for name, c in columns.items()}


def blank(names: Names, n: int) -> dict[str, np.ndarray]:
    """The columns of n replicates of which nothing is known."""
    return {name: column.blank(n) for name, column in schema(names).items()}


# ---------------------------------------------------------------- the numbers
def as_columns(
    model: Any, found: Found, iterations: np.ndarray, first: int, keep: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Results of replicates first, first + 1, .. as the columns of a batch; those of ``found.columns`` as they are,
    under the names that they are declared by."""
    family, names = model.likelihood.family, names_of(model, keep)
    failed, p = np.isin(found.status, NO_ESTIMATE), len(names.fixef)
    phi, count = np.asarray(found.phi), len(failed)
    sd, corr = spread(model, found.lams)
    lanes_last = {
        "fixef": found.beta[:p],
        "bse": found.bse[:p],
        "theta": found.theta,
        "varcorr_sd": np.stack(sd) if sd else np.zeros((0, count)),
        "varcorr_corr": np.stack(corr) if corr else np.zeros((0, count)),
        "sigma": np.sqrt(phi) if names.has_scale else np.full(count, np.nan if family.has_scale else 1.0),
        "dispersion": phi if names.has_phi else np.full(count, np.nan),
        "loglik": -0.5 * np.asarray(found.deviance),
        **({"family_params": found.further} if names.family_params else {}),
        **({"further": found.beta[p:], "further_bse": found.bse[p:]} if names.further else {}),
        **found.columns,
    }
    nobs = lanes_last.pop("nobs", len(model.design.y))
    estimates = {
        name: np.ascontiguousarray(np.where(failed, np.nan, np.asarray(x, float)).T) for name, x in lanes_last.items()
    }
    others = {
        "nobs": np.broadcast_to(np.asarray(nobs, np.int64), count),
        "replicate": first + np.arange(count),
        "is_singular": _singular(model, found) & ~failed,
        "status": np.asarray(found.status, np.int8),
        "iterations": np.asarray(iterations, np.int32),
    }
    return completed(names, estimates | others)


def spread(model: Any, lams: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The standard deviations and correlations, (L,) each, in the order of ``names_of``: D_ab = λ_a'λ_b, with λ (q, q,
    L) of each factor in elimination order, absolute."""
    sds, corrs = [], []
    for _, effects, related, place in _factors(model):
        rows = lams[place][: len(effects)]  # (q, q, L)
        sd = [np.sqrt(np.sum(row**2, axis=0)) for row in rows]
        sds += sd
        for a, b in related:
            with np.errstate(all="ignore"):
                corrs.append(np.clip(np.sum(rows[a] * rows[b], axis=0) / (sd[a] * sd[b]), -1.0, 1.0))
    return sds, corrs


def _singular(model: Any, found: Found) -> np.ndarray:
    """(L,) as ``Fit.is_singular``."""
    s = model.structure
    singular = np.zeros(len(found.status), bool)
    for (t, layout), at in zip(model.theta_terms(), s.slices(), strict=True):
        pivots = layout.covariance.pivots(np.asarray(found.theta[at]), model.design.terms[t].inputs)
        singular |= np.min(pivots, axis=0) < SINGULAR * model.unit
    return singular
