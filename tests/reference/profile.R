# Profile likelihood intervals: lme4 1.1. lme4 interpolates in a grid of zeta by a spline: hence the fine grid.
# Rscript profile.R > profile.json, in this folder
suppressMessages({library(lme4); library(jsonlite)})
data <- function(name) read.csv(file.path("..", "..", "jaxmm", "datasets", paste0(name, ".csv")))
factors <- function(d, names) { for (n in names) d[[n]] <- factor(d[[n]]); d }
sleep <- factors(data("sleepstudy"), "Subject")
dyestuff <- factors(data("dyestuff"), "Batch")
pastes <- factors(data("pastes"), c("batch", "cask"))
penicillin <- factors(data("penicillin"), c("plate", "sample"))
slopes <- penicillin
slopes$x <- (seq_len(nrow(slopes)) * 37) %% 17 / 10
slopes$y <- slopes$diameter + slopes$x * ((as.integer(slopes$plate) * 7) %% 11 - 5) / 5
cbpp <- factors(data("cbpp"), c("herd", "period"))
ticks <- factors(data("grouseticks"), c("BROOD", "YEAR"))
models <- list(
  list(data = "sleep", formula = "Reaction ~ Days + (Days | Subject)"),
  list(data = "dyestuff", formula = "Yield ~ 1 + (1 | Batch)"),
  list(data = "pastes", formula = "strength ~ 1 + (1 | batch / cask)"),
  list(data = "penicillin", formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"),
  list(data = "slopes", formula = "y ~ x + (x | plate) + (1 | sample)"),
  list(data = "cbpp", formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)", family = "binomial"),
  list(data = "ticks", formula = "TICKS ~ YEAR + (1 | BROOD)", family = "poisson"))
result <- lapply(models, function(m) {
  d <- get(m$data)
  fit <- if (is.null(m$family)) lmer(as.formula(m$formula), d, REML = FALSE)
         else glmer(as.formula(m$formula), d, m$family)
  p <- suppressWarnings(profile(fit, signames = FALSE, delta.cutoff = 1 / 32, devtol = 1e-6, maxpts = 400))
  ci <- suppressWarnings(confint(p, level = 0.95))
  m$lower <- as.list(ci[, 1]); m$upper <- as.list(ci[, 2])
  m
})
cat(toJSON(result, digits = 10, auto_unbox = TRUE, pretty = TRUE, na = "null"))
