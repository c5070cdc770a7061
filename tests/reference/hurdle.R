# Writes hurdle.csv, simulated, and hurdle.json: glmmTMB's fits of counts above zero, hurdles and Student's t.
#   Rscript tests/reference/hurdle.R tests/reference
suppressMessages(library(glmmTMB))
here <- commandArgs(TRUE)[1]
set.seed(15)
g <- rep(1:24, each = 10)
x <- round(rnorm(240), 3)
wet <- rep(c("no", "yes"), 120)
eta <- 0.3 + 0.4 * x + 0.5 * rnorm(24)[g]
above <- function(draw) { y <- draw(); while (any(y == 0)) { new <- draw(); y[y == 0] <- new[y == 0] }; y }
stays <- above(function() rpois(240, exp(eta)))
days <- above(function() rnbinom(240, size = 1.5, mu = exp(eta + 0.5)))
zero <- runif(240) < plogis(-1 + 1.2 * (wet == "yes") + 0.6 * rnorm(24)[g])
d <- data.frame(g, x, wet, stays, days, seen = ifelse(zero, 0, stays), much = ifelse(zero, 0, days),
                level = round(2 + 0.5 * x + 0.6 * rnorm(24)[g] + 0.4 * rt(240, 3), 3))
write.csv(d, file.path(here, "hurdle.csv"), row.names = FALSE, quote = FALSE)
d$g <- factor(d$g)
tight <- glmmTMBControl(optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-13, x.tol = 1e-12))
out <- list(glmmTMB = as.character(packageVersion("glmmTMB")))
fit <- function(key, formula, ...) {
  m <- suppressWarnings(glmmTMB(formula, d, control = tight, ...))
  zi <- fixef(m)$zi
  out[[key]] <<- list(loglik = as.numeric(logLik(m)), df = attr(logLik(m), "df"), fixef = unname(fixef(m)$cond),
                      se = unname(sqrt(diag(vcov(m)$cond))), zi = unname(zi), zi_se = unname(sqrt(diag(vcov(m)$zi))),
                      disp = unname(fixef(m)$disp), sd = unname(attr(VarCorr(m)$cond$g, "stddev")),
                      zi_sd = unname(attr(VarCorr(m)$zi$g, "stddev")), sigma = sigma(m)[!is.na(sigma(m))],
                      extra = unname(family_params(m)), fitted = unname(fitted(m)[1:6]),
                      conditional = unname(predict(m, type = "conditional")[1:6]),
                      gradient = max(abs(m$obj$gr(m$fit$par))))
}
fit("truncated_poisson", stays ~ x + (1 | g), family = truncated_poisson)
fit("truncated_nbinom1", days ~ x + (1 | g), family = truncated_nbinom1)
fit("truncated_nbinom2", days ~ x + (1 | g), family = truncated_nbinom2)
fit("hurdle poisson", seen ~ x + (1 | g), family = truncated_poisson, ziformula = ~ wet + (1 | g))
fit("hurdle nbinom2", much ~ x + (1 | g), family = truncated_nbinom2, ziformula = ~ wet, dispformula = ~ wet)
fit("t", level ~ x + (1 | g), family = t_family)
fit("t log", level + 6 ~ x + (1 | g), family = t_family(link = "log"))
json <- function(x) if (is.null(x)) "[]" else if (is.list(x)) paste0("{", paste0('"', names(x), '": ', sapply(x, json), collapse = ", "), "}") else
  if (is.character(x)) paste0('"', x, '"') else if (length(x) != 1) paste0("[", paste(format(x, digits = 12, trim = TRUE), collapse = ", "), "]") else format(x, digits = 15)
cat(gsub("}, ", "},\n", json(out)), "\n", file = file.path(here, "hurdle.json"))
