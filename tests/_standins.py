"""A fit's attributes without fitting: random intercepts and slopes with known variances, solved densely."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

import jaxmm as mm
from jaxmm.inference import wald
from jaxmm.linear import Linear
from jaxmm.tables import Block, RandomEffects, VarCorr


def dense_fit(y, x, codes, levels, D, sigma, *, reml=True, index=None, **changes) -> SimpleNamespace:
    """`y ~ x + (x | Subject)` at the given D (2, 2) and sigma: GLS for β, BLUPs, conditional covariances."""
    n, J = len(y), len(levels)
    X = np.column_stack([np.ones(n), x])
    Z = np.zeros((n, 2 * J))
    Z[np.arange(n), 2 * codes], Z[np.arange(n), 2 * codes + 1] = 1.0, x
    prior = np.kron(np.eye(J), D)
    W = np.linalg.inv(Z @ prior @ Z.T + sigma**2 * np.eye(n))
    vcov = np.linalg.inv(X.T @ W @ X)
    beta = vcov @ X.T @ W @ y
    modes = prior @ Z.T @ W @ (y - X @ beta)
    cond = prior - prior @ Z.T @ W @ Z @ prior
    P = W - W @ X @ vcov @ X.T @ W
    prediction = prior - prior @ Z.T @ P @ Z @ prior
    names = ["(Intercept)", "Days"]
    index = pd.RangeIndex(n) if index is None else index
    mu = X @ beta + Z @ modes
    table = pd.DataFrame(modes.reshape(J, 2), index=pd.Index(levels, name="Subject"), columns=names)
    blocks, prediction_blocks = (
        np.array([M[2 * j : 2 * j + 2, 2 * j : 2 * j + 2] for j in range(J)]) for M in (cond, prediction)
    )
    design = SimpleNamespace(
        residual=None,
        formula="Reaction ~ Days + (Days | Subject)",
        response="Reaction",
        y=y,
        X=X,
        columns=tuple(names),
        factors=(SimpleNamespace(name="Subject", levels=np.asarray(levels), codes=codes, predictor="mu"),),
        terms=(SimpleNamespace(factor=0, effects=tuple(names), Z=X, covariance=mm.covariance.get("us", 2)),),
        weights=None,
        offset=None,
        index=index,
        kept=np.ones(n, dtype=bool),
        n_missing=0,
        y_all=y,
        observed=y,
        success=None,
        further=(),
        predictors={"mu": slice(0, 2)},
        coefficients=tuple(names),
    )
    likelihood = Linear(reml)
    fixef, bse = pd.Series(beta, names), pd.Series(np.sqrt(np.diag(vcov)), names)
    attributes = {
        "fixef": fixef,
        "bse": bse,
        "tvalues": fixef / bse,
        "vcov": lambda: pd.DataFrame(vcov, names, names),
        "sigma": sigma,
        "deviance": 1743.62827196,
        "loglik": -871.81413598,
        "aic": 1755.62827196,
        "bic": 1774.786,
        "df": 6,
        "nobs": n,
        "n_groups": {"Subject": J},
        "reml": reml,
        "dropped": (),
        "residual": None,
        "varcorr": lambda: VarCorr([Block("Subject", tuple(names), np.asarray(D), np.ones((2, 2), bool))], sigma),
        "ranef": lambda: RandomEffects({"Subject": table}, lambda: {"Subject": blocks}),
        "prediction_cov": prediction_blocks,
        "fitted": lambda: pd.Series(mu, index),
        "residuals": lambda kind="response": pd.Series(y - mu, index),
        "predict": lambda newdata=None, re="conditional": pd.Series(X @ beta, index),
        "converged": True,
        "is_singular": False,
        "singular_terms": [],
        "remarks": [],
        "diagnostics": SimpleNamespace(status_message="converged", device="cpu:0"),
        "accuracy": lambda: None,
        "family": likelihood.family,
        "dispersion": sigma**2,
        "family_params": {},
        "notes": (),
        "estimates": None,
        "model": SimpleNamespace(design=design, likelihood=likelihood),
        "formula": design.formula,
    }
    fit = SimpleNamespace(**(attributes | changes))

    def coef_table(ddf=None, component="mu"):
        each = wald.each(fit.fixef, fit.bse, 17.0)  # lmerTest's, for sleepstudy
        columns = {"estimate": fit.fixef, "se": fit.bse, "df": 17.0, "statistic": each.statistic, "p": each.p}
        return pd.DataFrame(columns, fit.fixef.index)

    fit.coef_table = coef_table
    fit.reference = lambda: SimpleNamespace(name="satterthwaite", beta=fit.fixef.to_numpy(), notes=fit.notes)
    return fit


def sleepstudy_fit(**changes) -> SimpleNamespace:
    """The REML fit of sleepstudy: D and sigma are lme4's."""
    from jaxmm import datasets

    data = datasets.load("sleepstudy")
    codes = data["Subject"].cat.codes.to_numpy()
    D = np.array([[612.10015802477, 9.60440895116], [9.60440895116, 35.07171445094]])
    levels = list(data["Subject"].cat.categories)
    y, x = data["Reaction"].to_numpy(float), data["Days"].to_numpy(float)
    return dense_fit(y, x, codes, levels, D, 25.5917957217, index=data.index, **changes)
