# Exact restricted likelihood ratio tests by RLRsim, and likelihood ratios by lme4.  Rscript compare.R  writes compare.json.
suppressMessages({library(lme4); library(RLRsim); library(jsonlite)})
data(sleepstudy); data(Dyestuff); data(Pastes)
draws <- 1e5
exact <- function(...) { set.seed(1); r <- exactRLRT(..., nsim = draws); list(statistic = unname(r$statistic), p = r$p.value) }
quantiles <- function(m, seed = 1) quantile(RLRTSim(getME(m, "X"), as.matrix(getME(m, "Z")), qr(getME(m, "X")),
  chol(diag(ncol(getME(m, "Z")))), nsim = draws, seed = seed), c(.8, .9, .95, .99), names = FALSE)
dye <- lmer(Yield ~ 1 + (1 | Batch), Dyestuff)
# a variance that hardly shows: some rows of sleepstudy, unbalanced
some <- subset(sleepstudy, Days %in% c(0, 1, 2, 3) & !(as.integer(Subject) %% 3 == 0 & Days > 1))
some$y <- some$Reaction + 90 * sin(7 * seq_len(nrow(some)))
weak <- lmer(y ~ Days + (1 | Subject), some)
ma <- lmer(Reaction ~ Days + (1 | Subject) + (0 + Days | Subject), sleepstudy)
m0 <- lmer(Reaction ~ Days + (1 | Subject), sleepstudy)
ms <- lmer(Reaction ~ Days + (0 + Days | Subject), sleepstudy)
out <- list(
  reml_chisq = anova(m0, lmer(Reaction ~ Days + (Days | Subject), sleepstudy), refit = FALSE)$Chisq[2],
  dye = exact(dye), weak = exact(weak), weak_quantiles = quantiles(weak), weak_rows = nrow(some),
  slopes = exact(ms, ma, m0),
  lrt = unclass(anova(lmer(Reaction ~ Days + (1 | Subject), sleepstudy, REML = FALSE),
                      lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE)))[c("AIC", "BIC", "Chisq", "Pr(>Chisq)")])
write_json(out, "compare.json", digits = 10, auto_unbox = TRUE, pretty = TRUE, na = "null")
