"""The parameters that responses are drawn from: a fit's, or stated ones.

    {"fixef", "sd", "corr", "sigma" | "dispersion", "residual", "zero_inflation", "family_params"}
        ->  β (p,) of every predictor;  per grouping factor λ (q, q), D = λλ';  σ, φ;  rho of correlated errors

D_f = diag(sd) R diag(sd) is the covariance of the q effects of a level, in the units of η whatever the likelihood; a
standard deviation of zero, or a correlation of one, is as good as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance import free
from jaxmm.fitted import Fitted
from jaxmm.layout import Parameters
from jaxmm.prepared import Prepared
from jaxmm.sources.given import check_names, listed, matrix, number, vector
from jaxmm.sources.residual import OTHER, ROUNDING, stated_errors
from jaxmm.tables import correlation

ACCEPTED = ("fixef", "sd", "corr", "sigma", "dispersion", "residual", "zero_inflation", "family_params")
GIVEN_AS = {"zi": "zero_inflation", "phi": "dispersion"}  # the coefficients of a predictor after the mean's


@dataclass(frozen=True, eq=False)
class Truth:
    """Parameters of a model.

    Attributes:
        beta: (p,) in the order of ``model.design.coefficients``: those of the mean, then of predictors after it.
        lams: for each grouping factor of the design, the lower factor (q, q) of the absolute covariance of its
            effects, which come in the order of the design's terms.
        sigma: residual standard deviation; 1.0 where the family has no scale.
        phi: φ of the family, σ² where it has a scale; 1.0 where it has none, or a formula.
        extras: the values of ``Family.extras``.
        rho: where errors are correlated or of unequal variances, the parameters of their covariance over σ², the last
            of ``Fit.theta``.

    Example:
        >>> mm.Simulated(fit.model, fit, 2, key=1).truth.sigma == fit.sigma
        True
    """

    beta: np.ndarray
    lams: tuple[np.ndarray, ...]
    sigma: float
    phi: float
    extras: tuple[np.ndarray, ...] = ()
    rho: np.ndarray | None = None

    def theta(self, model: Prepared) -> np.ndarray:
        """(m,), as ``Fit.theta``: relative to σ in a linear model.

        Raises:
            ValueError: σ = 0 in a linear model.
        """
        relative = model.likelihood.precisions  # of a linear model
        if relative and self.sigma == 0:
            raise ValueError("theta is relative to sigma, and sigma is 0: give a residual standard deviation above 0")
        parts = []
        for t, layout in model.theta_terms():
            inside = slice(layout.at, layout.at + layout.covariance.q)
            term = model.design.terms[t]
            lam = self.lams[term.factor][inside, inside]
            parts.append(layout.covariance.from_factor(lam / self.sigma if relative else lam, term.inputs))
        return np.concatenate([*parts, np.zeros(0) if self.rho is None else self.rho])


def as_truth(model: Prepared, truth: Fitted | Mapping[str, Any] | Truth) -> Truth:
    """The parameters that responses of ``model`` are drawn from.

    Args:
        truth: a ``Fit`` of a model with the same columns, effects and family; a ``Truth``; or a mapping with

            - ``"fixef"``: a mapping column -> number or a Series, with every column; an array (p,) in the order of
              ``model.design.columns``; a number for one column;
            - ``"sd"``: grouping factor -> standard deviations of its effects on the scale of η: a number for one
              effect, a list, or a mapping effect -> number. A number alone for one factor with one effect;
            - ``"corr"``: grouping factor -> correlations: a number for two effects, a matrix (q, q), or a mapping
              (effect, effect) -> number. None by default; those left out of a mapping are zero;
            - ``"sigma"``, the residual standard deviation, or ``"dispersion"``, φ = σ², where the family has a scale;
              ``"dispersion"`` where it has another φ; neither where it has none. Where φ has a formula, the
              coefficients of log φ, as ``"fixef"``;
            - ``"residual"``: of a model with ``residual=`` the covariance of the errors within a subject, in the place
              of ``"sigma"``: a matrix (T, T), with the times as the names of its rows and columns or in their order; or
              ``{"sd": .., "corr": ..}``, a number or one for each time, and a matrix, or one number where the structure
              has one correlation: of any two times, or of two that are a step or a unit of time apart. Where
              parameters differ ``by`` a factor, level -> one of these, or one for all levels. A formula of log φ
              multiplies it: ``"dispersion"`` then has the coefficients beside the intercept;
            - ``"zero_inflation"``: the coefficients of the logit of an extra zero, as ``"fixef"``;
            - ``"family_params"``: further parameters of the family, as ``Fit.family_params``.

    Raises:
        TypeError: something that is none of these.
        ValueError: an unknown name, a missing one, a number that is not finite, a negative standard deviation, an
            impossible correlation or one that the model has no parameter for; parameters of another model.
    """
    if model.likelihood.family.num_phi > 1:
        raise NotImplementedError("responses of a family with several dispersion parameters are not available yet")
    if isinstance(truth, Truth):
        return _checked(model, truth)
    if isinstance(truth, Fitted):
        return _of_fit(model, truth)
    if not isinstance(truth, Mapping):
        number = f"; a number of responses is n={truth}" if isinstance(truth, int) else ""
        raise TypeError(f"truth must be a Fit, or a mapping with {listed(ACCEPTED)}; not {truth!r}{number}")
    check_names("truth", truth, ACCEPTED)
    d = model.design
    sides = {"fixef": d.columns} | {GIVEN_AS.get(p.name, p.name): p.columns for p in d.further}
    if "zero_inflation" in truth and "zero_inflation" not in sides:
        raise ValueError("the model has no zero inflation: leave 'zero_inflation' out of truth")
    for name, needed in (sides | {"sd": _effects(model)}).items():
        if needed and name not in truth:
            raise ValueError(f"truth lacks {name!r}, of {listed(needed)}")
    beta = np.concatenate([vector(name, "column", truth.get(name, ()), columns) for name, columns in sides.items()])
    layout, own, rho = model.structure.residual, d.residual, None
    if layout is None or own is None or own.plain:
        if truth.get("residual") is not None:
            raise ValueError(
                "the model's errors are independent and of one variance: leave 'residual' out of truth, or make the "
                "model with residual="
            )
        sigma, phi = _scale(model, truth)
        rho = None if layout is None else np.zeros(0)
    else:
        sigma, rho = stated_errors(own, layout, truth)
        phi = sigma**2
    lams = _factors(model, truth.get("sd", {}), truth.get("corr"))
    _check_structures(model, lams)
    return Truth(beta, lams, sigma, phi, _extras(model.likelihood.family, truth.get("family_params")), rho)


def _extras(family: Any, given: Any) -> tuple[np.ndarray, ...]:
    """The values of ``Family.extras`` by their labels."""
    labels = [label for e in family.extras for label in e.labels]
    if not labels:
        if given is not None:
            raise ValueError(f"the {family.name} family has no further parameters: leave 'family_params' out of truth")
        return ()
    if given is None:
        raise ValueError(f"truth lacks 'family_params', of {listed(labels)}")
    values = dict(zip(labels, vector("family_params", "parameter", given, tuple(labels)), strict=True))
    own = [np.array([values[label] for label in e.labels]) for e in family.extras]
    for e, x in zip(family.extras, own, strict=True):
        if not np.all(np.isfinite(e.map.raw(x))):
            raise ValueError(f"family_params: {listed(e.labels)} cannot be {x.tolist()}")
    return tuple(x[0] if len(x) == 1 else x for x in own)


def _check_structures(model: Prepared, lams: tuple[np.ndarray, ...]) -> None:
    """Raises ValueError for a covariance that a term's structure cannot have."""
    for t, layout in model.theta_terms():
        term, own = model.design.terms[t], layout.covariance
        inside = slice(layout.at, layout.at + own.q)
        given = lams[term.factor][inside, inside]
        lam = own.lam(own.from_factor(given, term.inputs), term.inputs)
        D, nearest = given @ given.T, lam @ lam.T
        if np.max(np.abs(nearest - D)) > OTHER * np.max(np.diag(D), initial=0.0):
            sd, R = np.sqrt(np.diag(nearest)), correlation(nearest)
            raise ValueError(
                f"the structure {own.name} of {model.design.factors[term.factor].name!r} cannot have these standard "
                f"deviations and correlations; near to them are sd {np.round(sd, 4).tolist()} and corr "
                f"{np.round(R, 4).tolist()}"
            )


def as_start(model: Prepared, start: Any) -> Parameters | None:
    """Where the search of a model is told to begin, in the data's columns; None where it may choose.

    Args:
        start: theta (m,), in the order of ``fit.theta``: beta is None then, and log_phi empty; or what ``as_truth``
            takes, whose beta and dispersion count in a generalised model.

    Raises:
        ValueError: parameters of another model, or numbers that are none.
    """
    if start is None:
        return None
    if not isinstance(start, Fitted | Truth | Mapping):
        return Parameters(None, _theta(start, model.structure.num_theta))  # pyright: ignore
    try:
        truth = _of_fit(model, start) if isinstance(start, Fitted) else as_truth(model, start)
        theta = truth.theta(model)
    except ValueError as error:
        also = ": of such a fit, give its theta alone, start=fit.theta" if isinstance(start, Fitted) else ""
        raise ValueError(f"start: {error}{also}") from None
    known = getattr(start.estimates, "log_phi", None) if isinstance(start, Fitted) else None
    log_phi = _constants(model, truth) if known is None else known
    return Parameters(truth.beta, theta, log_phi)  # pyright: ignore


def _constants(model: Prepared, truth: Truth) -> Any:
    """log φ and the family's other constants as the search moves them; () where they are not known."""
    family = model.likelihood.family
    num_phi = family.num_phi - ("phi" in model.design.predictors)
    if num_phi and truth.phi <= 0:
        return ()
    raw = [e.map.raw(np.atleast_1d(x)) for e, x in zip(family.extras, truth.extras, strict=True)]
    return np.concatenate([np.log([truth.phi] * num_phi), *raw])


def _theta(start: Any, num_theta: int) -> np.ndarray:
    """(num_theta,) finite."""
    try:
        array = np.asarray(start, float)
    except (TypeError, ValueError):
        array = np.full((), np.nan)
    if array.shape != (num_theta,) or not np.all(np.isfinite(array)):
        raise ValueError(
            f"start must be {num_theta} finite number{'s' if num_theta > 1 else ''}, the covariance factor "
            f"as in fit.theta; got {start!r}; a Fit, a Truth, or a mapping with {listed(ACCEPTED)} will do too"
        )
    return array


# ---------------------------------------------------------------- from objects
def _of_fit(model: Prepared, fit: Fitted) -> Truth:
    d, theirs = model.design, fit.model.design
    other = None
    if d.coefficients != theirs.coefficients:
        other = f"its fixed effects are {listed(theirs.coefficients)}, the model's {listed(d.coefficients)}"
    elif _effects(model) != _effects(fit.model):
        other = f"its random effects are {_effects(fit.model)}, the model's {_effects(model)}"
    elif model.structure.residual != fit.model.structure.residual:
        other = "its errors have another covariance"
    elif repr(fit.family) != repr(model.likelihood.family):
        other = f"its family is {fit.family!r}, the model's {model.likelihood.family!r}"
    if other:
        raise ValueError(f"truth is the fit of another model: {other}")
    scale = np.sqrt(fit.model.likelihood.effects_scale(fit.estimates))
    lams = tuple(scale * fit.factor_lam(f) for f in range(len(d.factors)))
    phi = 1.0 if fit.dispersion is None else float(fit.dispersion)
    sigma = 1.0 if np.isnan(fit.sigma) else float(fit.sigma)
    extras = fit.model.likelihood.extras(fit.estimates)
    rho = None if model.structure.residual is None else np.asarray(fit.theta)[model.structure.num_random :]
    return _checked(model, Truth(np.asarray(fit.estimates.beta), lams, sigma, phi, extras, rho))


def _checked(model: Prepared, truth: Truth) -> Truth:
    beta = np.asarray(truth.beta, float)
    lams = tuple(np.asarray(lam, float) for lam in truth.lams)
    if beta.shape != (len(model.design.coefficients),):
        raise ValueError(f"truth has beta of shape {beta.shape}; the columns are {listed(model.design.coefficients)}")
    effects = _effects(model)
    shapes = [lam.shape for lam in lams]
    if shapes != [(len(names), len(names)) for names in effects.values()]:
        raise ValueError(f"truth has lams of shapes {shapes}; the model's random effects are {effects}")
    if not all(np.all(np.isfinite(x)) for x in (beta, truth.sigma, truth.phi, *lams)):
        raise ValueError(f"truth has parameters that are not finite: {truth}")
    if truth.sigma < 0 or truth.phi < 0:
        raise ValueError(f"truth has a negative sigma or phi: {truth.sigma}, {truth.phi}")
    for (group, names), lam, has in zip(effects.items(), lams, _correlated(model), strict=True):
        D = lam @ lam.T
        i, k = np.unravel_index(np.argmax(np.where(has, 0.0, np.abs(D))), D.shape)
        if not has[i, k] and abs(D[i, k]) > ROUNDING * np.sqrt(D[i, i] * D[k, k]):
            raise ValueError(_no_correlation(group, names[i], names[k]))
    if (truth.rho is None) != (model.structure.residual is None):
        raise ValueError("truth must have rho where the model's errors have a covariance of their own, and only there")
    return Truth(beta, lams, float(truth.sigma), float(truth.phi), truth.extras, truth.rho)


# ---------------------------------------------------------------- from a mapping
def _scale(model: Prepared, truth: Mapping[str, Any]) -> tuple[float, float]:
    """σ and φ."""
    family = model.likelihood.family
    if "phi" in model.design.predictors:
        if truth.get("sigma") is not None:
            raise ValueError("dispersion has a formula, so that there is no one sigma: leave 'sigma' out of truth")
        return 1.0, 1.0
    accepted = ("sigma", "dispersion") if family.has_scale else ("dispersion",) if family.num_phi else ()
    given = [name for name in ("sigma", "dispersion") if truth.get(name) is not None]
    for name in given:
        if name not in accepted:
            has = f"; it has {accepted[0]!r}" if accepted else ""
            raise ValueError(f"the {family.name} family has no {name}{has}: leave {name!r} out of truth")
    if not accepted:
        return 1.0, 1.0
    if not given:
        what = "'sigma', the residual standard deviation" if family.has_scale else "'dispersion', the family's φ"
        raise ValueError(f"truth lacks {what}")
    if len(given) == 2:
        raise ValueError("truth has both 'sigma' and 'dispersion', its square: give one of them")
    value = number(given[0], truth[given[0]])
    if value < 0 or (value == 0 and not model.likelihood.precisions):
        raise ValueError(f"{given[0]} must be positive, not {value:g}")
    if not family.has_scale:
        return 1.0, value
    return (value, value**2) if given[0] == "sigma" else (float(np.sqrt(value)), value)


def _factors(model: Prepared, sd: Any, corr: Any) -> tuple[np.ndarray, ...]:
    """λ of each grouping factor."""
    effects = _effects(model)
    if not isinstance(sd, Mapping):
        if len(effects) != 1 or any(len(names) > 1 for names in effects.values()) or np.ndim(sd):
            raise ValueError(f"sd must be a mapping grouping factor -> standard deviations of {effects}; not {sd!r}")
        sd = dict.fromkeys(effects, sd)
    corr = {} if corr is None else corr
    if not isinstance(corr, Mapping):
        raise ValueError(f"corr must be a mapping grouping factor -> correlations of {effects}; not {corr!r}")
    check_names("sd", sd, effects, "grouping factor")
    check_names("corr", corr, effects, "grouping factor")
    lams = []
    for (group, names), has in zip(effects.items(), _correlated(model), strict=True):
        if group not in sd:
            raise ValueError(f"sd lacks the grouping factor {group!r}, with the effects {listed(names)}")
        sds = vector(f"sd of {group!r}", "effect", sd[group], names)
        if np.any(sds < 0):
            i = int(np.argmin(sds))
            raise ValueError(f"sd of {group!r}: the standard deviation of {names[i]!r} is negative, {sds[i]:g}")
        lams.append(sds[:, None] * _root(group, _correlations(group, corr.get(group), names, sds, has)))
    return tuple(lams)


def _correlations(group: str, given: Any, names: tuple[str, ...], sds: np.ndarray, has: np.ndarray) -> np.ndarray:
    """R (q, q), checked but for its eigenvalues."""
    q, what = len(names), f"corr of {group!r}"
    R = np.eye(q)
    if given is None:
        return R
    if isinstance(given, Mapping):
        for pair, value in given.items():
            if not isinstance(pair, tuple) or len(pair) != 2 or not set(pair) <= set(names) or pair[0] == pair[1]:
                raise ValueError(f"{what}: {pair!r} is no pair of two effects of {listed(names)}")
            i, k = map(names.index, pair)
            value = number(what, value)
            if R[i, k] not in (0.0, value):
                raise ValueError(f"{what}: two values for {pair!r}")
            R[i, k] = R[k, i] = value
    elif np.ndim(given) == 0:
        if q != 2:
            raise ValueError(f"{what}: a number is for two effects, and there are {listed(names)}: give a matrix")
        R[0, 1] = R[1, 0] = number(what, given)
    else:
        R = matrix(what, given, names)
        nothing = (sds[:, None] == 0) | (sds[None, :] == 0)  # as VarCorr.corr has them: not a number
        R = np.where(nothing & np.isnan(R), np.eye(q), R)
        if not np.all(np.isfinite(R)):
            raise ValueError(f"{what} has numbers that are not finite: {R.tolist()}")
        if np.any(np.abs(R - R.T) > ROUNDING) or np.any(np.abs(np.diag(R) - 1) > ROUNDING):
            raise ValueError(f"{what} must be symmetric with ones on its diagonal: {R.tolist()}")
        R = (R + R.T) / 2
    i, k = np.unravel_index(np.argmax(np.abs(R - np.eye(q))), R.shape)
    if abs(R[i, k]) > 1 + ROUNDING:
        raise ValueError(f"{what}: the correlation of {names[i]!r} and {names[k]!r} is {R[i, k]:g}, not in [-1, 1]")
    if np.any(missing := ~has & (R != 0)):
        i, k = np.argwhere(missing)[0]
        raise ValueError(_no_correlation(group, names[i], names[k]))
    return R


def _root(group: str, R: np.ndarray) -> np.ndarray:
    """Lower triangular L with LL' = R, also of a singular R: L of the LQ factors of its symmetric root."""
    try:
        return np.linalg.cholesky(R)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(R)
    if values[0] < -ROUNDING * len(R):
        raise ValueError(
            f"corr of {group!r} is impossible: no effects have these correlations together (the matrix "
            f"{R.tolist()} has the eigenvalue {values[0]:.3g})"
        )
    L = np.asarray(np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T, mode="r")).T
    return L * np.where(np.diag(L) < 0, -1.0, 1.0)


# ---------------------------------------------------------------- names and numbers
def _effects(model: Prepared) -> dict[str, tuple[str, ...]]:
    """The effects of each grouping factor, in the design's order."""
    d = model.design
    return {
        factor.name: tuple(e for t in d.terms if t.factor == f for e in t.effects) for f, factor in enumerate(d.factors)
    }


def _correlated(model: Prepared) -> list[np.ndarray]:
    """For each factor (q, q), True where the model has a covariance."""
    d = model.design
    return [free(t for t in d.terms if t.factor == f) for f in range(len(d.factors))]


def _no_correlation(group: str, a: str, b: str) -> str:
    return f"the model has no correlation of {a!r} and {b!r} within {group!r}: leave it out of corr, or write one term"
