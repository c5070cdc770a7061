# Writes positions.json: linear and Poisson models of positions.csv by glmmTMB with structures of covariance that it has.
#   Rscript tests/reference/positions.R tests/reference
suppressMessages(library(glmmTMB))
here <- commandArgs(TRUE)[1]
d <- read.csv(file.path(here, "positions.csv"))
d$f <- factor(d$t)
d$n <- numFactor(d$t)
d$p <- numFactor(d$px, d$py)
d$g <- factor(d$g)
out <- list(glmmTMB = as.character(packageVersion("glmmTMB")))
fit <- function(key, formula, ...) {
  m <- glmmTMB(as.formula(formula), d, ...)
  D <- VarCorr(m)$cond$g
  out[[key]] <<- list(loglik = as.numeric(logLik(m)), fixef = unname(fixef(m)$cond), sd = unname(attr(D, "stddev")),
                      cor = unname(attr(D, "correlation")[1, ]))
}
fit("toep(0 + factor(t) | g)", "y ~ x + toep(0 + f | g)")
fit("ou(0 + t | g)", "y ~ x + ou(0 + n | g)")
fit("exp(0 + t | g)", "y ~ x + exp(0 + n | g)")
fit("exp(pos(px, py) | g)", "y ~ x + exp(0 + p | g)")
fit("gau(0 + pos(px, py) | g)", "y ~ x + gau(0 + p | g)")
fit("poisson ou(0 + t | g)", "c ~ x + ou(0 + n | g)", family = poisson)
json <- function(x) if (is.list(x)) paste0("{", paste0('"', names(x), '": ', sapply(x, json), collapse = ", "), "}") else
  if (is.character(x)) paste0('"', x, '"') else if (length(x) > 1) paste0("[", paste(format(x, digits = 15), collapse = ", "), "]") else format(x, digits = 15)
cat(gsub("}, ", "},\n", json(out)), "\n", file = file.path(here, "positions.json"))
