"""lme4, by Rscript: `lme4_.R` takes the steps of `lmer` one by one, so that building and fitting are timed
apart; its fit from the formula is their sum."""

import shutil
from pathlib import Path

distribution = "lme4"
needs_compiling = False

SCRIPT = str(Path(__file__).with_name("lme4_.R"))

PROCESS = """
suppressMessages(library(lme4))
frame <- read.csv(commandArgs(TRUE)[1], colClasses = c(Subject = "factor"))
fit <- lmer(Reaction ~ Days + (Days | Subject), frame, REML = FALSE)
print(summary(fit))
cat("DEVIANCE", format(-2 * as.numeric(logLik(fit)), digits = 15), "\\n")
"""


def fit_command(python):
    rscript = shutil.which("Rscript")
    return rscript and [rscript, SCRIPT, "lme4"]


def process_command(python):
    rscript = shutil.which("Rscript")
    return rscript and [rscript, "-e", PROCESS]
