# Many fits of one design with an R package, in one process; prints one line "RESULT {json}".
#   Rscript throughput.R PEER WAY TASK FOLDER SECONDS COMMON DEVIANCES FORMULA REML FAMILY LINK TRIALS
# libraries/<peer>_.R has
#   refitter(problem, frame)   y -> list(deviance, converged); `problem` as in measure.R, with trials (or NULL), by
#                              which responses are divided to be proportions
arguments <- commandArgs(TRUE)
peer <- arguments[1]
folder <- arguments[4]
limit <- as.numeric(arguments[5])
common <- as.integer(arguments[6])
families <- list(binomial = binomial, poisson = poisson)
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))

result <- load_peer(peer, here)
frame <- staged(folder, arguments[8])
trials <- if (arguments[12] != "-") as.numeric(frame[[arguments[12]]])
problem <- list(
  formula = as.formula(arguments[8]), reml = arguments[9] == "True", trials = trials,
  family = if (arguments[10] != "gaussian") families[[arguments[10]]](link = arguments[11])
)
environment(problem$formula) <- environment()
Y <- matrix(read_doubles(file.path(folder, "Y.f8"), nrow(frame) * common), nrow(frame))
if (!is.null(trials)) Y <- Y / trials
frame[[all.vars(problem$formula)[1]]] <- Y[, 1]
result$rows <- nrow(frame)
result$base_mb <- peak("VmRSS")

fit <- refitter(problem, frame)
for (k in 1:2) fit(Y[, k])
deviances <- numeric(0)
converged <- logical(0)
started <- clock()
while (length(deviances) < common && clock() - started < limit) {
  outcome <- fit(Y[, length(deviances) + 1])
  deviances <- c(deviances, outcome$deviance)
  converged <- c(converged, outcome$converged)
}
rate <- length(deviances) / (clock() - started)
writeBin(deviances, arguments[7], 8)
finish(c(result, list(
  status = "ok", lanes = length(deviances), repeats = 1, rate = rate, rate_best = rate,
  compared = length(deviances), not_converged = sum(!converged)
)))
