"""Mixed-effects models on JAX: exact derivatives, compiled, and a fit that explains itself.

>>> import jaxmm as mm
>>> fit = mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
>>> print(fit.varcorr())  # doctest: +SKIP

A map of what is public; ``help(mm.lmm)`` says more of each, and ``dir(fit)`` lists what can be done with a fit.

Fit a model
    lmm, glmm               from a formula and a table: linear, generalised
    Model, Term             the two steps apart; without a formula, from arrays
    Fit                     what a fit knows: coefficients, tests, intervals, predictions, checks, tables
    Control, Status         when a search ends, and how it ended

Compare and report
    anova, compare          tests and information criteria of several fits
    exact_rlrt              whether a variance is zero, by the exact distribution
    cross_validate, CrossValidation
                            log predictive density of groups that a fit has not seen
    table                   several fits side by side, for a paper

Many fits at once
    fit_many, FitBatch      one design, many responses; what comes of them
    load                    a batch or a study from a file
    permutation_test, PermutationResult
                            a term in many responses, with family-wise error
    grid_adjacency, adjacency_of, Adjacency
                            which responses are neighbours
    pool, Pooled, impute_reference, Imputed
                            fits of several imputations as one; visits of those who left a trial
    run_shards, RayExecutor the same call in many processes, on one machine or on a cluster
    Truth, Simulated, DirectlySimulated, Generated
                            parameters that are true, and responses drawn from them or from a function of yours
    Mechanism, Spread, draws, missing
                            other shapes of effects and errors, covariates drawn anew, dropout and missing rows

Studies
    bootstrap, Bootstrap    draws of any quantity, and their intervals
    study, StudyResult      bias, coverage, rejections of simulated data
    power, power_curve, PowerCurve, PowerSurface
                            power of a design, over sizes of it, and as a smooth function of them
    optimal_allocation, Allocation
                            clusters against measurements at a cost
    WaldZ, LikelihoodRatio, Satterthwaite, KenwardRoger, BootstrapLRT, SignFlip
                            the tests that a study makes
    plan, make_design, extend
                            designs before there are data: models, tables, more levels of what there is

Inside a JAX program
    estimate, neg2_loglik, deviance
                            pure functions of arrays: they compile, differentiate, vectorise
    Parameters, Estimates, GlmmEstimates
                            what those take and give

Parts
    families, links, covariance
                            distributions, link functions, structures of random effects; yours have a place there
    plots                   pictures of fits (needs matplotlib)
    datasets                small published tables
    DataError, FormulaError what is raised for data or a formula that cannot be used
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from jaxmm import covariance as covariance
from jaxmm import datasets as datasets
from jaxmm import families as families
from jaxmm import links as links
from jaxmm import plots as plots
from jaxmm._elsewhere import OF_PACKAGE as _OF_PACKAGE
from jaxmm._elsewhere import missing as _missing
from jaxmm.batch.engine import fit_many as fit_many
from jaxmm.crossval.validate import CrossValidation as CrossValidation
from jaxmm.crossval.validate import cross_validate as cross_validate
from jaxmm.design import DataError as DataError
from jaxmm.design.formula import FormulaError as FormulaError
from jaxmm.design.from_arrays import Term as Term
from jaxmm.distribute import RayExecutor as RayExecutor
from jaxmm.distribute import run_shards as run_shards
from jaxmm.estimate import Estimates as Estimates
from jaxmm.estimate_glmm import GlmmEstimates as GlmmEstimates
from jaxmm.fit import Fit as Fit
from jaxmm.imputation.imputed import Imputed as Imputed
from jaxmm.imputation.reference import impute_reference as impute_reference
from jaxmm.inference.compare import anova as anova
from jaxmm.inference.compare import compare as compare
from jaxmm.inference.exact import exact_rlrt as exact_rlrt
from jaxmm.layout import Parameters as Parameters
from jaxmm.model import Model as Model
from jaxmm.model import glmm as glmm
from jaxmm.model import lmm as lmm
from jaxmm.objective.lmm import deviance as deviance
from jaxmm.optimize import Control as Control
from jaxmm.optimize import Status as Status
from jaxmm.permute.adjacency import Adjacency as Adjacency
from jaxmm.permute.adjacency import adjacency_of as adjacency_of
from jaxmm.permute.adjacency import grid_adjacency as grid_adjacency
from jaxmm.permute.permutation import permutation_test as permutation_test
from jaxmm.permute.result import PermutationResult as PermutationResult
from jaxmm.pooling.pooled import Pooled as Pooled
from jaxmm.pooling.pooled import pool as pool
from jaxmm.programs import estimate as estimate
from jaxmm.programs import neg2_loglik as neg2_loglik
from jaxmm.publish.several import table as table
from jaxmm.results.result import FitBatch as FitBatch
from jaxmm.results.store import load as load
from jaxmm.sources import draws as draws
from jaxmm.sources import missing as missing
from jaxmm.sources.direct import DirectlySimulated as DirectlySimulated
from jaxmm.sources.draw import Generated as Generated
from jaxmm.sources.draw import Simulated as Simulated
from jaxmm.sources.mechanism import Mechanism as Mechanism
from jaxmm.sources.mechanism import Spread as Spread
from jaxmm.sources.truth import Truth as Truth
from jaxmm.studies.allocation import Allocation as Allocation
from jaxmm.studies.allocation import optimal_allocation as optimal_allocation
from jaxmm.studies.bootstrap import Bootstrap as Bootstrap
from jaxmm.studies.bootstrap import bootstrap as bootstrap
from jaxmm.studies.curve import PowerCurve as PowerCurve
from jaxmm.studies.designs import make_design as make_design
from jaxmm.studies.designs import plan as plan
from jaxmm.studies.extending import extend as extend
from jaxmm.studies.hypotheses import LikelihoodRatio as LikelihoodRatio
from jaxmm.studies.hypotheses import WaldZ as WaldZ
from jaxmm.studies.power import power as power
from jaxmm.studies.power import power_curve as power_curve
from jaxmm.studies.resampled_tests import BootstrapLRT as BootstrapLRT
from jaxmm.studies.resampled_tests import SignFlip as SignFlip
from jaxmm.studies.small_samples import KenwardRoger as KenwardRoger
from jaxmm.studies.small_samples import Satterthwaite as Satterthwaite
from jaxmm.studies.study import study as study
from jaxmm.studies.study_result import StudyResult as StudyResult
from jaxmm.studies.surface import PowerSurface as PowerSurface

__all__ = [
    "Adjacency",
    "Allocation",
    "Bootstrap",
    "BootstrapLRT",
    "Control",
    "CrossValidation",
    "DataError",
    "DirectlySimulated",
    "Estimates",
    "Fit",
    "FitBatch",
    "FormulaError",
    "Generated",
    "GlmmEstimates",
    "Imputed",
    "KenwardRoger",
    "LikelihoodRatio",
    "Mechanism",
    "Model",
    "Parameters",
    "PermutationResult",
    "Pooled",
    "PowerCurve",
    "PowerSurface",
    "RayExecutor",
    "Satterthwaite",
    "SignFlip",
    "Simulated",
    "Spread",
    "Status",
    "StudyResult",
    "Term",
    "Truth",
    "WaldZ",
    "adjacency_of",
    "anova",
    "bootstrap",
    "compare",
    "covariance",
    "cross_validate",
    "datasets",
    "deviance",
    "draws",
    "estimate",
    "exact_rlrt",
    "extend",
    "families",
    "fit_many",
    "glmm",
    "grid_adjacency",
    "impute_reference",
    "links",
    "lmm",
    "load",
    "make_design",
    "missing",
    "neg2_loglik",
    "optimal_allocation",
    "permutation_test",
    "plan",
    "plots",
    "pool",
    "power",
    "power_curve",
    "run_shards",
    "study",
    "table",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    """``jaxmm.sklearn``, imported where it is asked for: nothing else needs scikit-learn; of another name what it is
    called here."""
    if name == "sklearn":
        return _import_module("jaxmm.sklearn")
    raise _missing("module 'jaxmm'", name, _OF_PACKAGE, __all__)


def __dir__() -> list[str]:
    """The public names alone: modules within the package are attributes of it too, once they are imported."""
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"])
