"""lme4, by Rscript: `lme4_.R` takes the steps of `lmer` and `glmer` one by one, so that building and fitting are
timed apart; its fit from the formula is their sum."""

from libraries import THROUGHPUT, in_r, r_process

needs_compiling = False


def fit_command(python):
    return in_r("lme4")


def process_command(python, problem):
    if problem.family:
        fit = f"glmer({problem.formula}, frame, {problem.family})"
    else:
        fit = f"lmer({problem.formula}, frame, REML = {str(problem.reml).upper()})"
    return r_process(problem, "lme4", fit)


def refuses(problem):
    if problem.family == "gamma":
        return "its criterion is another one where there is a dispersion to estimate"
    return None


# ---------------------------------------------------------------- many fits
own_threads = False


def many_command(python):
    return in_r("lme4", THROUGHPUT)


def refuses_many(batch):
    return "its refit() of a REML fit maximises another criterion" if batch.reml else None


def ways(batch):
    return ("",)
