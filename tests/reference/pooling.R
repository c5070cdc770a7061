# Pooled fits of imputed data: mice (pool, D1, D2), mitml (testEstimates, testModels), lme4, for tests/test_pooling.py.
# Rscript pooling.R, in this folder: writes pooling.csv, the imputed data, and pooling.json
suppressMessages({library(mice); library(mitml); library(lme4); library(broom.mixed); library(jsonlite)})
set.seed(20)
n <- 90
d <- data.frame(g = rep(1:15, each = 6), x = rnorm(n), z = rep(rnorm(15), each = 6))
b <- cbind(rnorm(15, sd = 0.8), rnorm(15, sd = 0.9))
d$y <- 1 + 0.5 * d$x + 0.3 * d$z + b[d$g, 1] + b[d$g, 2] * d$x + rnorm(n, sd = 0.9)
d$s <- as.numeric(d$y + rnorm(n, sd = 0.3) > 1)
d$x[sample(n, 22)] <- NA
d$y[sample(n, 18)] <- NA
imp <- mice(d, m = 6, method = "norm", seed = 3, printFlag = FALSE)
long <- complete(imp, "long")
long$s <- as.numeric(long$s > 0.5)
long <- data.frame(imp = long$.imp, g = long$g, x = round(long$x, 4), z = round(long$z, 4), y = round(long$y, 4),
                   s = long$s)
write.csv(long, "pooling.csv", row.names = FALSE, quote = FALSE)
sets <- split(long, long$imp)
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9), check.conv.grad = "ignore",
                     check.conv.singular = "ignore")
tightg <- glmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9), check.conv.grad = "ignore")
all <- as.mitml.list(sets)
full <- with(all, lmer(y ~ x * z + (x | g), control = tight))
null <- with(all, lmer(y ~ x + (x | g), control = tight))
full_ml <- with(all, lmer(y ~ x * z + (x | g), REML = FALSE, control = tight))
null_ml <- with(all, lmer(y ~ x + (x | g), REML = FALSE, control = tight))
small <- with(all, lmer(y ~ x + (1 | g), REML = FALSE, control = tight))
glms <- with(all, glmer(s ~ x + z + (1 | g), family = binomial, control = tightg))
summed <- function(fits, dfcom) {
  p <- pool(as.mira(fits), dfcom = dfcom)$pooled
  p[c("estimate", "ubar", "b", "t", "df", "riv", "lambda", "fmi")]
}
test <- function(a, b, method, ...) as.numeric(suppressWarnings(testModels(a, b, method = method, ...))$test)
est <- testEstimates(full, extra.pars = TRUE)
out <- list(
  Q = t(sapply(full, fixef)), U = lapply(full, function(f) as.matrix(vcov(f))),
  pool = summed(full, 86), pool_inf = summed(full, Inf), glm_pool = summed(glms, Inf),
  mitml = unclass(est$estimates)[, ], mitml_vc = est$extra.pars[, 1], vcov = attr(est$estimates, "T"),
  D1 = test(full, null, "D1"), D1_df = test(full, null, "D1", df.com = 86),
  mice_D1 = as.numeric(D1(as.mira(full), as.mira(null), dfcom = 86)$result),
  D2_wald = test(full, null, "D2"), mice_D2 = as.numeric(D2(as.mira(full), as.mira(null))$result),
  D2_lr = test(full_ml, null_ml, "D2", use = "likelihood"),
  D3 = test(full_ml, null_ml, "D3"), D3_effects = test(full_ml, small, "D3"),
  chisq = sapply(seq_along(full_ml), function(l) 2 * (logLik(full_ml[[l]]) - logLik(null_ml[[l]]))),
  versions = c(mice = as.character(packageVersion("mice")), mitml = as.character(packageVersion("mitml")),
               lme4 = as.character(packageVersion("lme4"))))
write_json(out, "pooling.json", digits = 15, auto_unbox = TRUE, pretty = TRUE, na = "null")
