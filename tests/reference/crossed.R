# Writes crossed.json: models of crossed.csv by glmmTMB whose errors are correlated within subjects that cross items.
#   Rscript tests/reference/crossed.R tests/reference
# glmmTMB has such errors as a term of the formula beside none of its own, whose standard deviation it holds near zero.
suppressMessages(library(glmmTMB))
here <- commandArgs(TRUE)[1]
d <- read.csv(file.path(here, "crossed.csv"))
d$f <- factor(d$trial)
d$subject <- factor(d$subject)
d$item <- factor(d$item)
out <- list(glmmTMB = as.character(packageVersion("glmmTMB")))
fit <- function(key, formula, REML) {
  m <- glmmTMB(as.formula(formula), d, dispformula = ~0, REML = REML,
               control = glmmTMBControl(optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-14)))
  V <- VarCorr(m)$cond
  errors <- V[[length(V)]]
  effects <- V[-length(V)]
  out[[key]] <<- list(loglik = as.numeric(logLik(m)), fixef = unname(fixef(m)$cond),
                      bse = unname(sqrt(diag(vcov(m)$cond))), sd = unname(unlist(lapply(effects, attr, "stddev"))),
                      error_sd = unname(attr(errors, "stddev")[1]), rho = unname(attr(errors, "correlation")[1, 2]))
}
for (REML in c(TRUE, FALSE)) {
  name <- if (REML) "REML" else "ML"
  fit(paste(name, "item"), "y ~ x + (1 | item) + ar1(0 + f | subject)", REML)
  fit(paste(name, "subject item"), "y ~ x + (1 | subject) + (1 | item) + ar1(0 + f | subject)", REML)
}
json <- function(x) if (is.list(x)) paste0("{", paste0('"', names(x), '": ', sapply(x, json), collapse = ", "), "}") else
  if (is.character(x)) paste0('"', x, '"') else if (length(x) > 1) paste0("[", paste(format(x, digits = 15), collapse = ", "), "]") else format(x, digits = 15)
cat(gsub("}, ", "},\n", json(out)), "\n", file = file.path(here, "crossed.json"))
