# Nakagawa's R² and ICC, and the parts of the variance, by performance and insight.  Rscript shares.R  writes shares.json.
suppressMessages({library(lme4); library(performance); library(insight); library(jsonlite)})
data(sleepstudy); data(grouseticks); data(cbpp)
herds <- cbind(incidence, size - incidence) ~ period + (1 | herd)
fits <- list(
  sleep = lmer(Reaction ~ Days + (Days | Subject), sleepstudy),
  oats = lmer(yield ~ nitro + Variety + (1 | Block/Variety), nlme::Oats),
  cbpp = glmer(herds, cbpp, binomial),
  cbpp_probit = glmer(herds, cbpp, binomial("probit")),
  cbpp_cloglog = glmer(herds, cbpp, binomial("cloglog")),
  ticks = glmer(TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION), grouseticks, poisson),
  ticks_sqrt = glmer(TICKS ~ cHEIGHT + (1 | LOCATION), grouseticks, poisson("sqrt")),
  ticks_rows = glmer(TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION), grouseticks, poisson),
  ticks_nb = glmer.nb(TICKS ~ cHEIGHT + (1 | LOCATION), grouseticks)
)
out <- lapply(fits, function(m) {
  r <- r2_nakagawa(m); i <- icc(m); v <- get_variance(m)
  list(marginal = unname(r$R2_marginal), conditional = unname(r$R2_conditional), adjusted = i$ICC_adjusted,
       unadjusted = i$ICC_unadjusted, fixed = v$var.fixed, random = v$var.random, residual = v$var.residual,
       theta = if (grepl("Negative", family(m)$family)) getME(m, "glmer.nb.theta") else NA)
})
groups <- icc(fits$oats, by_group = TRUE)
out$oats$by_group <- as.list(setNames(groups$ICC, groups$Group))
out$version <- paste("performance", packageVersion("performance"), "insight", packageVersion("insight"))
write_json(out, "shares.json", digits = 10, auto_unbox = TRUE, pretty = TRUE, na = "null")
