# Degrees of freedom and F tests: lmerTest 3.1 (Satterthwaite), pbkrtest 0.5 (Kenward & Roger), unbalanced data.
# Rscript tests.R > tests.json, in this folder
suppressMessages({library(lmerTest); library(jsonlite)})
data <- function(name, every) {
  d <- read.csv(file.path("..", "..", "jaxmm", "datasets", paste0(name, ".csv")))
  d <- d[seq_len(nrow(d)) %% every != 0, ]
  d
}
factors <- function(d, names) { for (n in names) d[[n]] <- factor(d[[n]]); d }
oats <- factors(data("oats", 5), c("Block", "Variety"))
oats$N <- factor(oats$nitro)
oats$x <- (seq_len(nrow(oats)) * 37) %% 17 / 10
machines <- factors(data("machines", 7), c("Worker", "Machine"))
sleep <- factors(data("sleepstudy", 7), "Subject")
sleep$late <- factor(ifelse(sleep$Days > 4, "late", "early"))
penicillin <- factors(data("penicillin", 5), c("plate", "sample"))
penicillin$half <- factor(ifelse(as.integer(penicillin$plate) %% 2 == 0, "even", "odd"))
models <- list(
  list(data = "sleep", formula = "Reaction ~ Days + (Days | Subject)"),
  list(data = "sleep", formula = "Reaction ~ Days * late + (1 | Subject)"),
  list(data = "oats", formula = "yield ~ Variety * N + (1 | Block / Variety)"),
  list(data = "oats", formula = "yield ~ Variety * x + N + (1 | Block)"),
  list(data = "machines", formula = "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)"),
  list(data = "penicillin", formula = "diameter ~ half + (1 | plate) + (1 | sample)"))
result <- lapply(models, function(m) {
  fit <- suppressMessages(lmer(as.formula(m$formula), get(m$data), control = lmerControl(
    optimizer = "nloptwrap", optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e5))))
  for (ddf in c("Satterthwaite", "Kenward-Roger")) {
    s <- coef(summary(fit, ddf = ddf))
    m[[ddf]] <- list(coef = list(se = s[, "Std. Error"], df = s[, "df"], p = s[, "Pr(>|t|)"]))
    for (type in 1:3) {
      a <- anova(fit, type = type, ddf = ddf)
      m[[ddf]][[paste0("type", type)]] <- list(term = rownames(a), F = a[["F value"]], num_df = a$NumDF,
                                               den_df = a$DenDF, p = a[["Pr(>F)"]])
    }
  }
  m
})
cat(toJSON(result, digits = 12, auto_unbox = TRUE, pretty = TRUE))
