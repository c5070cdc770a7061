# What limma makes of variances: the numbers of tests/reference/limma.json.  Rscript limma.R > limma.json
suppressMessages(library(limma))
set.seed(20)
n <- 40
df <- 6
mean_ <- rnorm(n, 5, 2)
s2 <- 1 / rchisq(n, 5) * 5 * 0.3 * rchisq(n, df) / df
by_trend <- s2 * exp(0.2 * mean_)
alike <- rchisq(n, df) / df
number <- function(x) paste(formatC(x, digits = 17, format = "g", width = 1), collapse = ", ")
out <- function(name, values) sprintf('  "%s": [%s]', name, gsub("Inf", "Infinity", number(values)))
one <- squeezeVar(s2, df)
trended <- squeezeVar(by_trend, df, covariate = mean_)
no_prior <- squeezeVar(alike, 3)
dfs <- rep(c(3, 8, 12, 5), 10)
unequal <- squeezeVar(s2, dfs)
lines <- c(
  out("df", df), out("mean", mean_), out("s2", s2), out("d0", one$df.prior), out("s02", one$var.prior),
  out("posterior", one$var.post), out("trended_s2", by_trend), out("trended_d0", trended$df.prior),
  out("trended_s02", trended$var.prior), out("trended_posterior", trended$var.post),
  out("alike_s2", alike), out("alike_df", 3), out("alike_d0", no_prior$df.prior), out("alike_s02", no_prior$var.prior),
  out("unequal_df", dfs), out("unequal_d0", unequal$df.prior), out("unequal_s02", unequal$var.prior),
  out("unequal_posterior", unequal$var.post))
cat(sprintf('{\n  "limma": "%s",\n%s\n}\n', packageVersion("limma"), paste(lines, collapse = ",\n")))
