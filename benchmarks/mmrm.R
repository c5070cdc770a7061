# Rscript mmrm.R peer data.csv formula repeats : a model of repeated measures with unstructured errors, by REML, at the
# peer's default settings. Prints -2 log restricted likelihood, whether it says that it converged, the median seconds,
# and its version.
argument <- commandArgs(TRUE)
peer <- argument[1]; data <- read.csv(argument[2], stringsAsFactors = TRUE); formula <- argument[3]
repeats <- as.integer(argument[4])
data$USUBJID <- factor(data$USUBJID); data$visit <- as.integer(data$AVISIT)
package <- if (peer == "gls") "nlme" else "glmmTMB"
suppressMessages(library(package, character.only = TRUE))
fit <- function() if (peer == "gls") {
  gls(as.formula(formula), data, correlation = corSymm(form = ~ visit | USUBJID), weights = varIdent(form = ~ 1 | AVISIT))
} else {
  glmmTMB(as.formula(paste(formula, "+ us(0 + AVISIT | USUBJID)")), data, dispformula = ~ 0, REML = TRUE)
}
seconds <- numeric(repeats)
for (k in seq_len(repeats)) seconds[k] <- system.time(m <- suppressWarnings(fit()))[["elapsed"]]
converged <- peer == "gls" || m$fit$convergence == 0 # gls stops with an error where it does not
# glmmTMB gives no logLik where its Hessian is not positive definite
value <- if (peer == "gls") -2 * as.numeric(logLik(m)) else 2 * m$fit$objective
cat(sprintf("%.8f %s %.3f %s\n", value, converged, median(seconds), packageVersion(package)))
