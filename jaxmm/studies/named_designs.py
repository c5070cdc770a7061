"""Designs by name: sizes -> the table of a planned study, a row per observation, without a response.

    parallel             patient × visit                 y ~ arm * visit + (1 | patient)
    crossover            patient × period                y ~ treatment + period + (1 | patient)
    cluster-randomised   cluster / person                y ~ arm + (1 | cluster)
    stepped wedge        cluster × period / person       y ~ treated + period + (1 | cluster)
    longitudinal         patient × visit, in one arm     y ~ visit + (visit | patient)
    subjects × items     subject × item                  y ~ condition + (condition | subject) + (condition | item)

A design is one function of its sizes, all of them keywords, with an entry in ``NAMED``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.columns import DataError


def parallel(
    *, patients: int, visits: int | Sequence[float] = 1, arms: Sequence[str] = ("control", "treated")
) -> pd.DataFrame:
    """Patients in one of several arms each, seen at ``visits``: a number, or their times.

    ``y ~ arm * visit + (1 | patient)``; the arm's effect at one visit is a contrast of ``factor(visit)``.

    Example:
        >>> mm.make_design("parallel", patients=6, visits=3).columns.tolist()
        ['patient', 'arm', 'visit']
    """
    times, arms = _times("visits", visits), _labels("arms", arms)
    patient = np.repeat(np.arange(_size("patients", patients, len(arms))), len(times))
    return _table(
        patient=_names("patient", patient, patients),
        arm=_factor(patient % len(arms), arms),
        visit=np.tile(times, patients),
    )


def longitudinal(*, patients: int, visits: int | Sequence[float]) -> pd.DataFrame:
    """Patients of one group, seen at ``visits``: a number, or their times.

    ``y ~ visit + (visit | patient)``; with arms it is "parallel".

    Example:
        >>> mm.make_design("longitudinal", patients=4, visits=[0, 1, 3])["visit"].tolist()[:3]
        [0, 1, 3]
    """
    times = _times("visits", visits)
    patient = np.repeat(np.arange(_size("patients", patients)), len(times))
    return _table(patient=_names("patient", patient, patients), visit=np.tile(times, patients))


def crossover(*, patients: int, sequences: Sequence[str] = ("AB", "BA"), rows: int = 1) -> pd.DataFrame:
    """Patients who have one treatment after another, a letter of their sequence in each period.

    ``y ~ treatment + period + (1 | patient)``; ``rows`` for each patient and period.

    Example:
        >>> table = mm.make_design("crossover", patients=4)
        >>> table["treatment"].tolist()[:4]
        ['A', 'B', 'B', 'A']
    """
    order = _labels("sequences", sequences)
    periods = len(order[0])
    if any(len(s) != periods for s in order) or periods < 2:
        raise DataError(f"sequences must have a letter for each of two or more periods, all as many: {order!r}")
    letters = sorted({letter for s in order for letter in s})
    n = _size("patients", patients, len(order))
    patient, period = _cells(n, periods, _size("rows", rows))
    codes = np.array([[letters.index(letter) for letter in s] for s in order])
    return _table(
        patient=_names("patient", patient, n),
        sequence=_factor(patient % len(order), order),
        period=_factor(period, [str(k + 1) for k in range(periods)]),
        treatment=_factor(codes[patient % len(order), period], letters),
    )


def cluster_randomised(*, clusters: int, size: int, arms: Sequence[str] = ("control", "treated")) -> pd.DataFrame:
    """Clusters in one of several arms each, with ``size`` persons; of unequal sizes the largest, and
    ``mm.missing.ClusterSizes`` says who is there.

    ``y ~ arm + (1 | cluster)``.

    Example:
        >>> mm.make_design("cluster-randomised", clusters=4, size=5).shape
        (20, 2)
    """
    arms = _labels("arms", arms)
    cluster = np.repeat(np.arange(_size("clusters", clusters, len(arms))), _size("size", size))
    return _table(cluster=_names("cluster", cluster, clusters), arm=_factor(cluster % len(arms), arms))


def stepped_wedge(*, clusters: int, periods: int, size: int, sequences: int | None = None) -> pd.DataFrame:
    """Clusters that begin the treatment one after another: sequence k of K from period k + 1 on, in random order of
    clusters or not; other persons, ``size`` of them, in each cluster and period.

    ``y ~ treated + period + (1 | cluster)`` is Hussey & Hughes's (2007, Contemp. Clin. Trials 28, 182-191);
    ``(1 | cluster/period)`` lets periods of a cluster differ.  ``sequences``: as many as periods less one.

    Example:
        >>> table = mm.make_design("stepped wedge", clusters=3, periods=4, size=1)
        >>> table["treated"].to_numpy().reshape(3, 4).tolist()
        [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    """
    T = _size("periods", periods, 2)
    K = T - 1 if sequences is None else _size("sequences", sequences)
    if K > T - 1:
        raise DataError(f"sequences is {K}, and with {T} periods there are at most {T - 1} to begin the treatment in")
    n = _size("clusters", clusters, K)
    cluster, period = _cells(n, T, _size("size", size))
    sequence = cluster * K // n
    begins = 1 + (np.arange(K) * (T - 1)) // K
    return _table(
        cluster=_names("cluster", cluster, n),
        sequence=_factor(sequence, [str(k + 1) for k in range(K)]),
        period=_factor(period, [str(k + 1) for k in range(T)]),
        treated=(period >= begins[sequence]).astype(int),
    )


def subjects_by_items(
    *,
    subjects: int,
    items: int,
    conditions: Sequence[str] = ("a", "b"),
    counterbalanced: bool = True,
) -> pd.DataFrame:
    """Each subject with each item, in one of the conditions by a Latin square, or in all where not ``counterbalanced``.

    ``y ~ condition + (condition | subject) + (condition | item)``.

    Example:
        >>> mm.make_design("subjects × items", subjects=4, items=6)["condition"].value_counts().tolist()
        [12, 12]
    """
    labels = _labels("conditions", conditions)
    each = 1 if counterbalanced else len(labels)
    subject, item = _cells(_size("subjects", subjects, 2), _size("items", items, 2), each)
    condition = (subject + item) % len(labels) if counterbalanced else np.arange(len(subject)) % len(labels)
    return _table(
        subject=_names("subject", subject, subjects),
        item=_names("item", item, items),
        condition=_factor(condition, labels),
    )


NAMED: dict[str, Callable[..., pd.DataFrame]] = {
    "parallel": parallel,
    "crossover": crossover,
    "cluster-randomised": cluster_randomised,
    "stepped wedge": stepped_wedge,
    "longitudinal": longitudinal,
    "subjects × items": subjects_by_items,
}
SPELLINGS = {"cluster-randomized": "cluster-randomised", "subjects x items": "subjects × items"}


def design_by_name(name: str, sizes: Mapping[str, Any]) -> pd.DataFrame:
    """The table of a named design.

    Raises:
        ValueError: an unknown name.
        TypeError: a size that it has not, one that it lacks.
        DataError: sizes that make no design.
    """
    known = ", ".join(map(repr, NAMED))
    key = SPELLINGS.get(name, name)
    if key not in NAMED:
        close = difflib.get_close_matches(name, NAMED, 1)
        raise ValueError(
            f"there is no design {name!r}; there are {known}" + "".join(f"; did you mean {c!r}?" for c in close)
        )
    own = inspect.signature(NAMED[key]).parameters
    for given in sizes:
        if given not in own:
            raise TypeError(f"the design {key!r} has no {given!r}: it takes {', '.join(own)}")
    for needed in own.values():
        if needed.default is needed.empty and needed.name not in sizes:
            raise TypeError(f"the design {key!r} needs {needed.name}=: it takes {', '.join(own)}")
    return NAMED[key](**sizes)


# ---------------------------------------------------------------- columns
def _size(name: str, size: Any, least: int = 1) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < least:
        raise DataError(f"{name} must be a whole number of at least {least}, not {size!r}")
    return int(size)


def _times(name: str, given: Any) -> np.ndarray:
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        return np.arange(_size(name, given))
    times = np.asarray(given)
    if (
        times.ndim != 1
        or not len(times)
        or times.dtype.kind not in "iuf"
        or not np.all(np.isfinite(times))
        or np.any(np.diff(times) <= 0)
    ):
        raise DataError(f"{name} must be a number of visits, or finite times one after another, not {given!r}")
    return times


def _labels(name: str, given: Any) -> list[str]:
    labels = [given] if isinstance(given, str) or np.ndim(given) == 0 else [str(x) for x in given]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise DataError(f"{name} must be two or more different names, not {given!r}")
    return labels


def _cells(outer: int, inner: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two crossed factors, the second running faster."""
    return np.repeat(np.arange(outer), inner * rows), np.tile(np.repeat(np.arange(inner), rows), outer)


def _names(name: str, codes: np.ndarray, levels: int) -> pd.Categorical:
    return _factor(codes, [f"{name}{k + 1:0{len(str(levels))}d}" for k in range(levels)])


def _factor(codes: np.ndarray, labels: Sequence[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(np.asarray(codes, int), list(labels))  # pyright: ignore[reportArgumentType]


def _table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)
