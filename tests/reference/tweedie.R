# Writes tweedie.json: Tweedie models of tweedie.csv by glmmTMB.
#   Rscript tests/reference/tweedie.R tests/reference
# The data: rng = numpy.random.default_rng(8); site, x = numpy.repeat(range(20), 10), rng.normal(size=200).round(3);
# mu = numpy.exp(0.6 + 0.5 x + 0.5 rng.normal(size=20)[site]); N = rng.poisson(mu^0.6 / 0.72); catch the sum of N gamma
# variates of shape 1.5 and scale 0.48 mu^0.4, to four decimals: power 1.4, dispersion 1.2
suppressMessages(library(glmmTMB))
here <- commandArgs(TRUE)[1]
d <- read.csv(file.path(here, "tweedie.csv"))
tight <- glmmTMBControl(optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-14, x.tol = 1e-12))
out <- list(glmmTMB = as.character(packageVersion("glmmTMB")))
fit <- function(key, ...) {
  m <- glmmTMB(catch ~ x + (1 | site), d, family = tweedie(), control = tight, ...)
  power <- 1 + plogis(m$fit$par[["psi"]])
  out[[key]] <<- list(loglik = as.numeric(logLik(m)), df = attr(logLik(m), "df"), fixef = unname(fixef(m)$cond),
                      se = unname(sqrt(diag(vcov(m)$cond))), disp = unname(fixef(m)$disp), power = power,
                      sd = attr(VarCorr(m)$cond$site, "stddev")[[1]], ranef = ranef(m)$cond$site[[1]],
                      pearson = unname(residuals(m, type = "pearson"))[1:10], gradient = max(abs(m$obj$gr(m$fit$par))))
}
fit("constant")
fit("dispersion", dispformula = ~x)
write(jsonlite::toJSON(out, auto_unbox = TRUE, digits = NA, pretty = TRUE), file.path(here, "tweedie.json"))
