# Errors of standard deviations and correlations by glmmTMB's Hessian, with exact derivatives (nlme's intervals are from
# finite differences, 1 to 7 % off here).  Rscript variances.R  writes variances.json beside it.
suppressMessages({library(glmmTMB); library(jsonlite)})
data(sleepstudy, package = "lme4"); data(grouseticks, package = "lme4"); data(cbpp, package = "lme4")
out <- list()
for (method in c("REML", "ML")) {
  m <- glmmTMB(Reaction ~ Days + (Days | Subject), sleepstudy, REML = method == "REML")
  s <- summary(m$sdr, "fixed")
  out[[paste0("sleepstudy_", method)]] <- list(theta = unname(s[rownames(s) == "theta", "Std. Error"]),
                                               disp = unname(s[grep("^betad", rownames(s)), "Std. Error"]),
                                               est = unname(s[rownames(s) == "theta", "Estimate"]))
}
m <- glmmTMB(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial)
s <- summary(m$sdr, "fixed")
out$cbpp <- list(theta = unname(s[rownames(s) == "theta", "Std. Error"]), est = unname(m$fit$par["theta"]))
m <- glmmTMB(TICKS ~ cHEIGHT + (1 | LOCATION), grouseticks, nbinom2)
s <- summary(m$sdr, "fixed")
out$ticks <- list(theta = unname(s[rownames(s) == "theta", "Std. Error"]), est = unname(m$fit$par["theta"]),
                  disp = unname(s[grep("^betad", rownames(s)), "Std. Error"]),
                  phi = sigma(m))
write_json(out, "variances.json", digits = 10, auto_unbox = TRUE, pretty = TRUE)
