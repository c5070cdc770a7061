"""glmmTMB, by Rscript: building is `glmmTMB(..., doFit = FALSE)`, fitting `fitTMB` with standard errors, as by
default; its fit from the formula is their sum."""

from libraries import in_r, r_process

needs_compiling = False


def fit_command(python):
    return in_r("glmmTMB")


def process_command(python, problem):
    last = f"family = {problem.family}" if problem.family else f"REML = {str(problem.reml).upper()}"
    return r_process(problem, "glmmTMB", f"glmmTMB({problem.formula}, frame, {last})")


def refuses(problem):
    return None
