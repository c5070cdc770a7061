"""Small published data sets as labelled data frames.

    load(name) -> DataFrame        names() -> list of names        describe(name) -> text

A table is kept as one `.csv` file of measurements beside this module, and as one `Dataset` below, which
holds what a plain text file cannot: the type of each column, the order of a factor's levels, the units, and
the publication that the numbers were measured for. Columns that follow from others (a label such as
`batch:cask`, a centred predictor) are made on loading. Column and level names are those under which the
tables are known in the R literature, so that a formula from a textbook runs as it stands.

Adding a table takes its `.csv` file and one entry in `_DATASETS`. The balanced ones are written from grids by
`tests/reference/grids.py`.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from importlib import resources
from typing import Any

import pandas as pd

__all__ = ["describe", "load", "names"]


@dataclasses.dataclass(frozen=True)
class Column:
    """One variable: what it is (with its unit), and how it is held.

    `kind` is `"float"`, `"int"`, `"factor"` or `"ordered"`. `levels` gives the order of a factor's levels,
    a factor without it takes them by first appearance. `derive` makes the column from the others;
    without it the column is read from the file.
    """

    meaning: str
    kind: str = "float"
    levels: tuple[str, ...] | None = None
    derive: Callable[[pd.DataFrame], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One table: a title, what was done, its columns in order, its publication, where R has the same numbers."""

    title: str
    about: str
    columns: dict[str, Column]
    source: str
    example: str
    same_as: str


def _counted(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(k) for k in range(first, last + 1))


_DAVIES = (
    "Davies, O. L. and Goldsmith, P. L. (eds) (1972). Statistical Methods in Research and Production, 4th "
    "edition (1st edition 1947). Oliver and Boyd, London, section {}."
)

_VALUES = "those of {} in R, with which they were compared; the printed publication was not at hand."
_TERMS = (
    "numbers are facts, on which jaxmm claims no rights, and the publication states no terms for them that we know "
    "of; please cite it. Their arrangement in this file and this description come under jaxmm's licence, Apache 2.0."
)

_DATASETS = {
    "sleepstudy": Dataset(
        title="Reaction times during ten days of restricted sleep",
        about=(
            "Eighteen volunteers, allowed three hours in bed a night, took a daily vigilance test. Days 0 "
            "and 1 were adaptation and training and day 2 the baseline; sleep was restricted from the night "
            "after it. 18 subjects x 10 days, balanced."
        ),
        columns={
            "Reaction": Column("average reaction time of the day (ms)"),
            "Days": Column("day of the study (0 to 9)", "int"),
            "Subject": Column("number of the volunteer", "factor"),
        },
        source=(
            "Belenky, G., Wesensten, N. J., Thorne, D. R., Thomas, M. L., Sing, H. C., Redmond, D. P., "
            "Russo, M. B. and Balkin, T. J. (2003). Patterns of performance degradation and restoration "
            "during sleep restriction and subsequent recovery: a sleep dose-response study. Journal of Sleep "
            "Research 12, 1-12."
        ),
        example="Reaction ~ Days + (Days | Subject)",
        same_as="lme4::sleepstudy",
    ),
    "dyestuff": Dataset(
        title="Yield of a dyestuff by batch of its intermediate",
        about=(
            "Five preparations of the dyestuff Naphthalene Black 12B were made in the laboratory from each "
            "of six works batches of the intermediate H-acid, to find how much of the variation of the yield "
            "comes from the batch. 6 batches x 5 preparations, balanced."
        ),
        columns={
            "Batch": Column("batch of the intermediate", "factor", tuple("ABCDEF")),
            "Yield": Column("yield of the preparation (grams of standard colour)"),
        },
        source=_DAVIES.format("6.4"),
        example="Yield ~ 1 + (1 | Batch)",
        same_as="lme4::Dyestuff",
    ),
    "dyestuff2": Dataset(
        title="Constructed yields whose batches differ less than chance",
        about=(
            "Thirty made-up yields in the layout of `dyestuff`, with a mean square between batches below the "
            "one within them: the estimated variance between batches is exactly zero."
        ),
        columns={
            "Batch": Column("batch", "factor", tuple("ABCDEF")),
            "Yield": Column("generated yield (no unit)"),
        },
        source=(
            "Box, G. E. P. and Tiao, G. C. (1973). Bayesian Inference in Statistical Analysis. "
            "Addison-Wesley, Reading, Massachusetts, section 5.1.2."
        ),
        example="Yield ~ 1 + (1 | Batch)",
        same_as="lme4::Dyestuff2",
    ),
    "penicillin": Dataset(
        title="Zones of inhibition in a penicillin assay",
        about=(
            "Six samples of penicillin were each tested on all of 24 plates by the B. subtilis method: a "
            "stronger solution clears a wider circle of the growing organism. 24 plates x 6 samples, one "
            "value each, completely crossed."
        ),
        columns={
            "diameter": Column("diameter of the zone of inhibition (mm)"),
            "plate": Column("assay plate", "factor", tuple("abcdefghijklmnopqrstuvwx")),
            "sample": Column("sample of penicillin", "factor", tuple("ABCDEF")),
        },
        source=_DAVIES.format("6.6"),
        example="diameter ~ 1 + (1 | plate) + (1 | sample)",
        same_as="lme4::Penicillin",
    ),
    "pastes": Dataset(
        title="Strength of a chemical paste by delivery and cask",
        about=(
            "Three casks were drawn from each of ten deliveries of a chemical paste, and the sample from "
            "each cask was analysed twice. 10 batches, 3 casks within each, 2 analyses: nested factors. The "
            "cask labels a, b, c are used again in every batch; `sample` is unique."
        ),
        columns={
            "strength": Column("paste strength (unit not stated)"),
            "batch": Column("delivery", "factor", tuple("ABCDEFGHIJ")),
            "cask": Column("cask within the delivery", "factor", tuple("abc")),
            "sample": Column(
                "the cask's sample, batch:cask",
                "factor",
                tuple(f"{batch}:{cask}" for batch in "ABCDEFGHIJ" for cask in "abc"),
                derive=lambda frame: frame["batch"].astype(str) + ":" + frame["cask"].astype(str),
            ),
        },
        source=_DAVIES.format("6.5"),
        example="strength ~ 1 + (1 | batch / cask)",
        same_as="lme4::Pastes",
    ),
    "machines": Dataset(
        title="Productivity of six workers on three machines",
        about=(
            "Six workers, drawn at random from a factory's, each ran each of three brands of machine three "
            "times. 6 workers x 3 machines x 3 runs, balanced, crossed."
        ),
        columns={
            "Worker": Column("worker, ordered by the highest score", "ordered", tuple("624135")),
            "Machine": Column("brand of machine", "factor", tuple("ABC")),
            "score": Column("productivity score, of the number and the quality of the pieces made"),
        },
        source=(
            "Milliken, G. A. and Johnson, D. E. (1992). Analysis of Messy Data, Volume I: Designed "
            "Experiments. Chapman and Hall, London, p. 285."
        ),
        example="score ~ Machine + (0 + Machine | Worker)",
        same_as="nlme::Machines",
    ),
    "oats": Dataset(
        title="A split-plot trial of oats and nitrogen",
        about=(
            "Six blocks of three plots; each plot of a block grew one variety and was split in four, each "
            "quarter with one amount of nitrogen. 6 blocks x 3 varieties x 4 amounts, balanced: plots "
            "(Block:Variety) are nested in blocks."
        ),
        columns={
            "Block": Column("block, ordered by the highest yield", "ordered", ("VI", "V", "III", "IV", "II", "I")),
            "Variety": Column("variety", "factor", ("Golden Rain", "Marvellous", "Victory")),
            "nitro": Column("nitrogen (hundredweight per acre: 0, 0.2, 0.4, 0.6)"),
            "yield": Column("yield (quarter pounds per subplot of 1/80 acre)"),
        },
        source=(
            "Yates, F. (1935). Complex experiments. Supplement to the Journal of the Royal Statistical "
            "Society 2, 181-247."
        ),
        example="yield ~ nitro + (1 | Block / Variety)",
        same_as="nlme::Oats",
    ),
    "cbpp": Dataset(
        title="New cases of contagious bovine pleuropneumonia",
        about=(
            "Zebu cattle of fifteen newly infected herds in the Ethiopian highlands were bled every three "
            "months; a case is an animal that has turned seropositive since the last visit. 15 herds x up to "
            "4 periods, 56 rows; some visits are missing."
        ),
        columns={
            "herd": Column("herd", "factor", _counted(1, 15)),
            "incidence": Column("new serological cases in the herd and period (animals)", "int"),
            "size": Column("animals at risk at the beginning of the period", "int"),
            "period": Column("period of follow-up (quarters of a year)", "factor", _counted(1, 4)),
        },
        source=(
            "Lesnoff, M., Laval, G., Bonnet, P., Abdicho, S., Workalemahu, A., Kifle, D., Peyraud, A., "
            "Lancelot, R. and Thiaucourt, F. (2004). Within-herd spread of contagious bovine pleuropneumonia "
            "in Ethiopian highlands. Preventive Veterinary Medicine 64, 27-40."
        ),
        example="cbind(incidence, size - incidence) ~ period + (1 | herd)",
        same_as="lme4::cbpp",
    ),
    "grouseticks": Dataset(
        title="Ticks on the heads of red grouse chicks",
        about=(
            "Ticks were counted on the heads of 403 chicks of 118 broods at 63 locations of a Scottish moor, "
            "in three years. Chicks are nested in broods and broods in locations; the counts vary more than "
            "a Poisson law allows."
        ),
        columns={
            "INDEX": Column("chick", "factor", _counted(1, 403), derive=lambda frame: frame.index.to_series() + 1),
            "TICKS": Column("ticks on the chick's head", "int"),
            "BROOD": Column("brood", "factor"),
            "HEIGHT": Column("height above sea level (m)", "int"),
            "YEAR": Column("year, less 1900", "factor", ("95", "96", "97")),
            "LOCATION": Column("location", "factor", _counted(1, 63)),
            "cHEIGHT": Column(
                "height less its mean over the chicks (m)",
                derive=lambda frame: frame["HEIGHT"] - frame["HEIGHT"].mean(),
            ),
        },
        source=(
            "Elston, D. A., Moss, R., Boulinier, T., Arrowsmith, C. and Lambin, X. (2001). Analysis of "
            "aggregation, a worked example: numbers of ticks on red grouse chicks. Parasitology 122, "
            "563-569."
        ),
        example="TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
        same_as="lme4::grouseticks",
    ),
}


def names() -> list[str]:
    """The names that `load` and `describe` take."""
    return list(_DATASETS)


def load(name: str) -> pd.DataFrame:
    """The table of this name, with its types and the order of its levels.

    >>> mm.datasets.load("sleepstudy").shape
    (180, 3)
    """
    dataset = _get(name)
    text: Any = {column: str for column, spec in dataset.columns.items() if _is_factor(spec)}
    with resources.files(__name__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        frame: Any = pd.read_csv(file, dtype=text, keep_default_na=False)
    for column, spec in dataset.columns.items():
        frame[column] = _typed(frame[column] if spec.derive is None else spec.derive(frame), spec)
    return frame[list(dataset.columns)]


def describe(name: str) -> str:
    """What the table called ``name`` is, its variables with their units, where it was published, and the terms under
    which it is here.

    >>> print(mm.datasets.describe("dyestuff").splitlines()[0])
    dyestuff: Yield of a dyestuff by batch of its intermediate
    """
    dataset = _get(name)

    def fill(text: str, first: str = "", rest: str = "") -> str:
        return textwrap.fill(text, width=88, initial_indent=first, subsequent_indent=rest)

    width = max(map(len, dataset.columns))
    variables = [
        fill(f"{spec.meaning}; {_kind(spec)}", f"  {column:<{width}}  ", " " * (width + 4))
        for column, spec in dataset.columns.items()
    ]
    return "\n".join(
        [
            f"{name}: {dataset.title}",
            "",
            fill(dataset.about),
            "",
            "Variables",
            *variables,
            "",
            f"Model: {dataset.example}",
            "",
            fill(f"Source: {dataset.source}", rest="  "),
            fill(f"Values: {_VALUES.format(dataset.same_as)}", rest="  "),
            fill(f"Terms: {_TERMS}", rest="  "),
        ]
    )


def _get(name: str) -> Dataset:
    if name not in _DATASETS:
        raise ValueError(f"no data set named {name!r}; there are {', '.join(_DATASETS)}")
    return _DATASETS[name]


def _is_factor(spec: Column) -> bool:
    return spec.kind in ("factor", "ordered")


def _kind(spec: Column) -> str:
    words = {"float": "number", "int": "whole number", "factor": "factor", "ordered": "ordered factor"}[spec.kind]
    if spec.levels is not None and len(spec.levels) <= 6:
        words += f", levels {', '.join(spec.levels)}"
    return words


def _typed(values: pd.Series, spec: Column) -> pd.Series:
    if not _is_factor(spec):
        return values.astype({"float": "float64", "int": "int64"}[spec.kind])
    text = values.astype(str)
    levels = list(spec.levels or pd.unique(text))
    return text.astype(pd.CategoricalDtype(levels, ordered=spec.kind == "ordered"))
