"""A fit -> what is printed of it: `summary` (text), `glance`, `augment` (data frames); `tidy` has a module of its own.

The layout of the text is that of lme4's summary, with the degrees of freedom and the p-values of lmerTest's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text, coefficients
from jaxmm.inference import wald
from jaxmm.tables import VarCorr

_DIGITS = 4
_MAX_CORRELATIONS = 20


@dataclass(frozen=True, eq=False)
class Summary:
    """The parts of a printed summary; `str` puts them together.

    title: one line, or with a second one for the family. dispersion: of a family without a residual, and what further
    parameters it has, or "".
    fixed: Estimate, Std. Error, df of t, t or z value and its p by term. further: title and the same of each predictor
    after the mean's. correlation: of the fixed effects, or None where it is not shown. notes: what the reader must know
    beyond the numbers, one sentence each.

    Example:
        >>> fit.summary().fixed.index.tolist()
        ['(Intercept)', 'Days']
    """

    title: str
    formula: str
    criteria: tuple[str, ...]
    residuals: pd.Series
    varcorr: VarCorr
    counts: str
    dispersion: str
    fixed: pd.DataFrame
    correlation: pd.DataFrame | None
    notes: tuple[str, ...]
    further: tuple[tuple[str, pd.DataFrame], ...] = ()
    residual: str = ""

    def __str__(self) -> str:
        sections = [
            [self.title, f"Formula: {self.formula}"],
            list(self.criteria),
            ["Scaled residuals:", *_residual_lines(self.residuals)],
            ["Random effects:", self.varcorr.to_string(("variance", "sd"), _DIGITS), self.counts],
            [self.residual] if self.residual else [],
            [self.dispersion] if self.dispersion else [],
            ["Fixed effects:", *_fixed_lines(self.fixed)] if len(self.fixed) else [],
            ["Correlation of fixed effects:", *_correlation_lines(self.correlation)]
            if self.correlation is not None
            else [],
            *([title, *_fixed_lines(table)] for title, table in self.further),
            list(self.notes),
        ]
        return "\n\n".join("\n".join(lines) for lines in sections if lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = _fixed_cells(self.fixed)
        title, *about = self.title.splitlines()
        others = []
        for name, table in self.further:
            head, *lines = _fixed_cells(table)
            others += [_text.paragraph(name), _text.html_table(head, lines)]
        return "".join(
            [
                f"<h4>{title}</h4>",
                *map(_text.paragraph, about),
                _text.paragraph(f"Formula: {self.formula}"),
                _text.paragraph(_criteria_sentence(self.criteria)),
                _text.paragraph("Random effects:"),
                self.varcorr._repr_html_(),
                _text.paragraph(self.counts),
                _text.paragraph(self.dispersion) if self.dispersion else "",
                _text.paragraph("Fixed effects:") + _text.html_table(header, rows) if rows else "",
                *others,
                *map(_text.paragraph, self.notes),
            ]
        )


def summary(fit: Any) -> Summary:
    """The printed account of a fit."""
    vcov = fit.vcov()
    p = len(fit.fixef)
    return Summary(
        title=fit.model.likelihood.title(fit.estimates),
        formula=str(fit.formula),
        criteria=_criteria(fit),
        residuals=_scaled_quantiles(fit),
        varcorr=fit.varcorr(),
        counts=_counts(fit),
        dispersion=_dispersion(fit),
        fixed=_fixed_table(fit, "mu"),
        correlation=_correlation(vcov) if 1 < p <= _MAX_CORRELATIONS else None,
        notes=_notes(fit),
        further=tuple(_further(fit)),
        residual=str(fit.residual or ""),
    )


def _further(fit: Any) -> Iterator[tuple[str, pd.DataFrame]]:
    """The title and the table of each predictor after the mean's."""
    design = fit.model.design
    for p in design.further:
        yield coefficients.title(design, fit.family, p.name), _fixed_table(fit, p.name)


def _has_dispersion(fit: Any) -> bool:
    """A dispersion that is no residual variance: the table of variances does not show it."""
    return fit.dispersion is not None and not fit.family.has_scale


def _dispersion(fit: Any) -> str:
    parts = [f"Dispersion of {fit.family.name}: {fit.dispersion:.{_DIGITS}g}"] if _has_dispersion(fit) else []
    parts += [f"{name} of {fit.family.name}: {value:.{_DIGITS}g}" for name, value in fit.family_params.items()]
    return "; ".join(parts)


def _fixed_table(fit: Any, component: str) -> pd.DataFrame:
    """Estimate, standard error, t with its degrees of freedom, or z, and p."""
    statistic, found = fit.model.likelihood.statistic, fit.coef_table(component=component)
    table = {"Estimate": found["estimate"], "Std. Error": found["se"]}
    if statistic == "t":
        table["df"] = found["df"]
    table |= {f"{statistic} value": found["statistic"], f"Pr(>|{statistic}|)": found["p"]}
    return pd.DataFrame(table, index=found.index)


def glance(fit: Any) -> pd.DataFrame:
    """One row: nobs, sigma, loglik, aic, bic, deviance, df, df_residual, reml, converged, further family parameters."""
    names = ["nobs", "sigma", "loglik", "aic", "bic", "deviance", "df"]
    row = {name: getattr(fit, name) for name in names}
    row |= {"df_residual": fit.nobs - fit.df, "reml": fit.reml, "converged": bool(fit.converged)}
    row |= fit.family_params
    return pd.DataFrame([row])


def augment(fit: Any) -> pd.DataFrame:
    """The rows used, in the data's order: the response (fitted + residual), and fitted, residual, population.

    `population` is the prediction from the fixed effects alone. Proportions where the response counts successes.
    """
    design = fit.model.design
    return pd.DataFrame(
        {
            design.response: np.asarray(design.observed),
            "fitted": np.asarray(fit.fitted()),
            "residual": np.asarray(fit.residuals()),
            "population": np.asarray(fit.predict(re="population")),
        },
        index=design.index,
    )


def _criteria(fit: Any) -> tuple[str, ...]:
    if fit.reml:
        return (f"REML criterion at convergence: {fit.deviance:.1f}",)
    names = ["AIC", "BIC", "logLik", "deviance", "df.resid"]
    values = [f"{v:.1f}" for v in (fit.aic, fit.bic, fit.loglik, fit.deviance)] + [str(fit.nobs - fit.df)]
    return tuple(_text.align([names, values], [True] * 5, gap="  "))


def _criteria_sentence(lines: tuple[str, ...]) -> str:
    """The one line as it stands, or names and values of a table in a row."""
    if len(lines) == 1:
        return lines[0]
    names, values = (line.split() for line in lines)
    return ", ".join(f"{n} {v}" for n, v in zip(names, values, strict=True))


def _scaled_quantiles(fit: Any) -> pd.Series:
    """Of the Pearson residuals over sigma, on the rows that count."""
    residuals = np.asarray(fit.residuals("pearson"), dtype=float)
    kept = np.asarray(fit.model.design.kept)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = residuals[kept] / np.nan_to_num(fit.sigma, nan=1.0)  # 1 where the family has no scale, or a formula
    return pd.Series(np.quantile(scaled, [0, 0.25, 0.5, 0.75, 1]), index=["Min", "1Q", "Median", "3Q", "Max"])


def _counts(fit: Any) -> str:
    groups = "; ".join(f"{name}, {levels}" for name, levels in fit.n_groups.items())
    return f"Number of obs: {fit.nobs}, groups: {groups}"


def _notes(fit: Any) -> tuple[str, ...]:
    design = fit.model.design
    notes = []
    if design.n_missing:
        where = f" in {_text.some(design.holes)}" if design.holes else ""
        notes.append(f"{_rows(design.n_missing)} left out because of missing values{where}")
    zero = int(np.sum(~np.asarray(design.kept)))
    if zero:
        notes.append(f"{_rows(zero)} of weight zero: fitted values, but no part in the estimates")
        lost = int(np.isnan(np.asarray(fit.fitted())).sum())
        if lost:
            notes.append(f"{_rows(lost)} of them without a fitted value: a level of a factor that no counted row has")
    if design.success is not None:
        notes.append(f"{design.response} = {design.success!r} is success")
    if fit.dropped:
        one = len(fit.dropped) == 1
        notes.append(
            f"rank-deficient fixed effects: dropped {_text.some(fit.dropped)} "
            f"({'it is a combination' if one else 'they are combinations'} of other columns)"
        )
    if len(fit.fixef) > _MAX_CORRELATIONS:
        notes.append(f"correlation of the {len(fit.fixef)} fixed effects not shown: see vcov()")
    if fit.is_singular:
        notes.append(
            f"boundary (singular) fit: {', '.join(fit.singular_terms)} "
            f"{'has' if len(fit.singular_terms) == 1 else 'have'} a variance of zero or a perfect correlation"
        )
    if not fit.converged:
        notes.append(f"not converged: {fit.diagnostics.status_message}")
    reference = fit.reference()
    if len(reference.beta) and fit.model.likelihood.statistic == "t":
        notes.append(f"degrees of freedom: {reference.name.title()}")
    notes.extend(reference.notes)
    notes.extend(fit.remarks)
    few = wald.few_levels(fit.n_groups) if fit.model.likelihood.statistic == "z" else None
    notes.extend([few] if few else [])
    accuracy = fit.accuracy()
    if accuracy is not None:
        notes.append(accuracy)
    notes.append(f"computed on {fit.diagnostics.device} in float64")
    return tuple(notes)


def _rows(n: int) -> str:
    return f"{n} row{'s' if n != 1 else ''}"


def _residual_lines(quantiles: pd.Series) -> list[str]:
    values = _text.number_column(_text.zap(quantiles.to_numpy(), _DIGITS + 1), _DIGITS)
    return _text.align([list(quantiles.index), values], [True] * len(values))


def _fixed_cells(fixed: pd.DataFrame) -> list[list[str]]:
    """Estimates and standard errors share their decimals, as many as the smallest of them needs."""
    both = fixed[["Estimate", "Std. Error"]].to_numpy(dtype=float)
    size = np.abs(both[np.isfinite(both) & (both != 0)])
    least = 1 + int(np.floor(np.log10(size.min()))) if size.size else 1
    texts = _text.number_column(np.round(both, max(1, _DIGITS - least)), _DIGITS)
    rows = [[str(name), texts[2 * i], texts[2 * i + 1]] for i, name in enumerate(fixed.index)]
    columns = [
        _text.number_column(np.round(fixed[name].to_numpy(dtype=float), _DIGITS - 1), _DIGITS)
        for name in fixed.columns[2:-1]
    ]
    columns.append([_text.p_value(p) for p in fixed.iloc[:, -1]])
    for row, *further in zip(rows, *columns, strict=True):
        row.extend(further)
    return [["", *fixed.columns], *rows]


def _fixed_lines(fixed: pd.DataFrame) -> list[str]:
    rows = [[c.strip() if k else c for k, c in enumerate(row)] for row in _fixed_cells(fixed)]
    return _text.align(rows, [False] + [True] * len(fixed.columns))


def _correlation(vcov: pd.DataFrame) -> pd.DataFrame:
    sd = np.sqrt(np.diag(vcov.to_numpy()))
    with np.errstate(divide="ignore", invalid="ignore"):
        return vcov / np.outer(sd, sd)


def _correlation_lines(correlation: pd.DataFrame) -> list[str]:
    names = list(map(str, correlation.index))
    values = correlation.to_numpy()
    rows = [["", *_text.abbreviate(names, 6)[:-1]]]
    for i, name in enumerate(_text.abbreviate(names, 11)[1:], start=1):
        rows.append([name, *(f"{values[i, k]:.3f}" if k < i else "" for k in range(len(names) - 1))])
    return _text.align(rows, [False, *[True] * (len(names) - 1)])
