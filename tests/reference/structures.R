# Writes structures.json: models of structures.csv by glmmTMB, whose effects have a Matern correlation, reduced rank or a
# known covariance.
#   Rscript tests/reference/structures.R tests/reference
suppressMessages(library(glmmTMB))
here <- commandArgs(TRUE)[1]
d <- read.csv(file.path(here, "structures.csv"), stringsAsFactors = TRUE)
d$g <- factor(d$g)
d$p <- numFactor(d$x, d$y)
K <- 0.3 * outer(1:6, 1:6, function(i, j) 0.5^abs(i - j))
dimnames(K) <- list(levels(d$place), levels(d$place))
tight <- glmmTMBControl(optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-13, x.tol = 1e-12))
out <- list(glmmTMB = as.character(packageVersion("glmmTMB")))
fit <- function(key, formula, ...) {
  m <- suppressWarnings(glmmTMB(as.formula(formula), d, control = tight, ...))
  D <- VarCorr(m)$cond[[1]]
  theta <- getME(m, "theta")
  out[[key]] <<- list(loglik = as.numeric(logLik(m)), df = attr(logLik(m), "df"), fixef = unname(fixef(m)$cond),
                      se = unname(sqrt(diag(vcov(m)$cond))), sigma = sigma(m), cov = as.vector(unclass(D)[1:6, 1:6]),
                      theta = unname(theta), gradient = max(abs(m$obj$gr(m$fit$par))))
}
fit("mat", "field ~ z + mat(0 + p | g)")
fit("mat REML", "field ~ z + mat(0 + p | g)", REML = TRUE)
fit("rr", "traits ~ z + rr(0 + place | g, d = 2)")
fit("rr 1", "traits ~ z + rr(0 + place | g, d = 1)")
fit("poisson rr", "count ~ z + rr(0 + place | g, d = 2)", family = poisson)
# of the K that is known, with us(...) held at it
L <- t(chol(cov2cor(K)))
L <- L / diag(L)
at <- c(log(sqrt(diag(K))), t(L)[upper.tri(L)])
held <- function(key, formula, ...)
  fit(key, formula, start = list(theta = at), map = list(theta = factor(rep(NA, length(at)))), ...)
held("equalto", "field ~ z + us(0 + place | g)")
held("equalto REML", "field ~ z + us(0 + place | g)", REML = TRUE)
held("poisson equalto", "count ~ z + us(0 + place | g)", family = poisson)
json <- function(x) if (is.list(x)) paste0("{", paste0('"', names(x), '": ', sapply(x, json), collapse = ", "), "}") else
  if (is.character(x)) paste0('"', x, '"') else if (length(x) > 1) paste0("[", paste(format(x, digits = 12, trim = TRUE), collapse = ", "), "]") else format(x, digits = 15)
cat(gsub("}, ", "},\n", json(out)), "\n", file = file.path(here, "structures.json"))
