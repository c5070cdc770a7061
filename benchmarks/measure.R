# One (task, R package) measurement in one process; prints one line "RESULT {json}".
#   Rscript measure.R PEER TASK FOLDER REPEAT BUDGET FORMULA REML FAMILY LINK
# libraries/<peer>_.R has
#   build(problem, frame)   the unfitted model; `problem` has formula, reml, and family (an R family, or NULL)
#   fit(built, problem)     list(deviance, converged, note); `build` and `fit` are timed apart, in turns
arguments <- commandArgs(TRUE)
peer <- arguments[1]
folder <- arguments[3]
wanted <- as.integer(arguments[4])
budget <- as.numeric(arguments[5])
families <- list(binomial = binomial, poisson = poisson, gamma = Gamma)
problem <- list(
  formula = as.formula(arguments[6]), reml = arguments[7] == "True",
  family = if (arguments[8] != "gaussian") families[[arguments[8]]](link = arguments[9])
)
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))

result <- load_peer(peer, here)
frame <- staged(folder, arguments[6])
result$rows <- nrow(frame)
result$base_mb <- peak("VmRSS")

builds <- fits <- numeric(0)
while (length(fits) == 0 || (length(fits) < wanted && sum(builds, fits) + tail(builds, 1) + tail(fits, 1) < budget)) {
  t0 <- clock()
  built <- build(problem, frame)
  t1 <- clock()
  outcome <- fit(built, problem)
  fits <- c(fits, clock() - t1)
  builds <- c(builds, t1 - t0)
}
finish(c(result, list(
  status = "ok",
  converged = outcome$converged,
  deviance = outcome$deviance,
  build_s = builds[1],
  build_again_s = median(builds),
  first_fit_s = fits[1],
  warm_s = median(fits),
  warm_min_s = min(fits),
  formula_s = median(builds + fits),
  repeats = length(fits),
  note = outcome$note
)))
