"""Mixed-effects models on JAX: exact derivatives, compiled, and a fit that explains itself.

import jaxmm as mm
fit = mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
print(fit)
print(fit.shrinkage())
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from jaxmm import datasets as datasets
from jaxmm import families as families
from jaxmm import links as links
from jaxmm import plots as plots
from jaxmm.batch.engine import fit_many as fit_many
from jaxmm.design import DataError as DataError
from jaxmm.design.formula import FormulaError as FormulaError
from jaxmm.design.from_arrays import Term as Term
from jaxmm.estimate import Estimates as Estimates
from jaxmm.estimate_glmm import GlmmEstimates as GlmmEstimates
from jaxmm.fit import Fit as Fit
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
from jaxmm.programs import estimate as estimate
from jaxmm.programs import neg2_loglik as neg2_loglik
from jaxmm.publish.several import table as table
from jaxmm.results.result import FitBatch as FitBatch
from jaxmm.results.store import load as load
from jaxmm.sources.direct import DirectlySimulated as DirectlySimulated
from jaxmm.sources.draw import Generated as Generated
from jaxmm.sources.draw import Simulated as Simulated
from jaxmm.sources.truth import Truth as Truth
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
from jaxmm.studies.study import study as study
from jaxmm.studies.study_result import StudyResult as StudyResult

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    """``jaxmm.sklearn``, imported where it is asked for: nothing else needs scikit-learn."""
    if name == "sklearn":
        return _import_module("jaxmm.sklearn")
    raise AttributeError(f"module 'jaxmm' has no attribute {name!r}")
