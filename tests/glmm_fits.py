"""Small generalised models of known data, each fitted once for all test files, and lme4's numbers for one."""

from functools import cache

import numpy as np
import pandas as pd
from helpers import close
from scipy import special

import jaxmm as mm
from jaxmm.families import Gamma

CBPP = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@cache
def data() -> pd.DataFrame:
    """14 levels of g with 12 rows each, crossed with 6 of h: counts, overdispersed ones, amounts, answers."""
    rng = np.random.default_rng(0)
    g, h, x = np.repeat(np.arange(14), 12), np.tile(np.arange(6), 28), rng.normal(size=168)
    b = rng.multivariate_normal([0, 0], [[1.2, 0.3], [0.3, 0.8]], 14)
    chance = special.expit(0.3 + 0.7 * x + b[g, 0] + b[g, 1] * x)
    mean = np.exp(0.3 + 0.4 * x + 0.5 * b[g, 0] + 0.4 * rng.normal(size=6)[h])
    t = rng.uniform(0.5, 3, 168)
    more = {"count": rng.poisson(mean), "much": rng.negative_binomial(2, 2 / (2 + mean))}
    more |= {"amount": mean * rng.gamma(4, 0.25, 168), "yes": rng.random(168) < chance}
    return pd.DataFrame({"g": [f"g{k:02d}" for k in g], "h": [f"h{k}" for k in h], "x": x, "t": t} | more)


def cbpp() -> pd.DataFrame:
    return mm.datasets.load("cbpp")


FITS = {
    "cbpp": (CBPP, "binomial"),
    "slopes": ("yes ~ x + (x | g)", "binomial"),
    "poisson": ("count ~ x + (1 | g)", "poisson"),
    "crossed": ("count ~ x + (1 | g) + (1 | h)", "poisson"),
    "nbinom2": ("much ~ x + (1 | g)", "nbinom2"),
    "gamma": ("amount ~ x + (1 | g)", Gamma("log")),
}


def glmm(name: str, table: pd.DataFrame | None = None, **arguments) -> mm.Fit:
    formula, family = FITS[name]
    if table is None:
        table = cbpp() if name == "cbpp" else data()
    return mm.glmm(formula, table, family, **arguments)


@cache
def fitted(name: str) -> mm.Fit:
    fit = glmm(name)
    assert fit.converged and not fit.is_singular and fit.remarks == []
    return fit


class LME4:
    """lme4 1.1-31 under R 4.2.2, tolPwrss=1e-12: glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp,
    binomial), its first six rows and levels; fixef_9 and theta_9 with nAGQ=9."""

    fixef = (-1.39853213151607, -0.992332716883148, -1.12867206401603, -1.58031385970849)
    se = (0.232471903069441, 0.306642290962743, 0.326637624931031, 0.427436270369383)
    p = (1.78869034218031e-09, 0.00121164405236464, 0.000549424471076992, 0.000217997665413611)
    lower = (-1.85416868894966, -1.59334056330698, -1.76887004487655, -2.41807355531861)
    theta, loglik, aic, bic = 0.642261435038019, -92.0262818714972, 194.052563742994, 204.17932219667
    ranef = (0.590020011567582, -0.298897221459701, 0.406255552997035, 0.0392773071646753, -0.190015353775365)
    cond_var = (0.121288547778286, 0.133632799731469, 0.0883982817283169, 0.173379115428621, 0.122779114570383)
    fitted = (0.308207644512199, 0.141748254584517, 0.125957529619855, 0.0840287496822663, 0.154801304659695)
    population = (0.198049143324554, 0.0838719552316275, 0.0739729338689243, 0.0483907420736916, 0.198049143324554)
    chisq, p_chisq = 25.6100634447196, 1.15093669430743e-05  # without period
    fixef_9 = (-1.39923019258896, -0.991403876505322, -1.12781967730874, -1.57947101616292)
    theta_9 = 0.647517712093312
    residuals = {  # noqa: RUF012
        "response": (
            -0.165350501655056,
            0.108251745415483,
            0.318486914824589,
            -0.0840287496822663,
            -0.0184376682960591,
        ),
        "pearson": (-1.33986163589652, 1.07512589673691, 2.87961557253057, -0.677264062839621, -0.239084059145041),
        "deviance": (-1.43803187857148, 0.988743172448236, 2.35699781460925, -0.936858051769704, -0.243184563474245),
        "working": (-0.775508124247831, 0.88982067479057, 2.89291000651473, -1.09173732216281, -0.140919976774562),
    }


def same(a: mm.Fit, b: mm.Fit) -> None:
    np.testing.assert_allclose(a.deviance, b.deviance, atol=1e-8)
    close(a.fixef, b.fixef, 1e-7)
    close(a.theta, b.theta, 1e-6)
