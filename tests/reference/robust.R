# Cluster-robust covariances and tests: clubSandwich 0.5.8 of lme4 fits, unbalanced data.
# Rscript robust.R > robust.json, in this folder
suppressMessages({library(lme4); library(clubSandwich); library(jsonlite)})
data <- function(name, every) {
  d <- read.csv(file.path("..", "..", "jaxmm", "datasets", paste0(name, ".csv")))
  d[seq_len(nrow(d)) %% every != 0, ]
}
sleep <- data("sleepstudy", 7)
sleep$late <- factor(ifelse(sleep$Days > 4, "late", "early"))
sleep$pair <- sleep$Subject %/% 4
sleep$Subject <- factor(sleep$Subject)
oats <- data("oats", 5)
oats$Block <- factor(oats$Block); oats$Variety <- factor(oats$Variety)
machines <- data("machines", 7)
machines$Worker <- factor(machines$Worker); machines$Machine <- factor(machines$Machine)
models <- list(
  list(data = "sleep", formula = "Reaction ~ Days + (Days | Subject)", cluster = "Subject"),
  list(data = "sleep", formula = "Reaction ~ Days * late + (1 | Subject)", cluster = "pair"),
  list(data = "oats", formula = "yield ~ Variety + nitro + (1 | Block / Variety)", cluster = "Block"),
  list(data = "machines", formula = "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", cluster = "Worker"))
result <- lapply(models, function(m) {
  d <- get(m$data)
  fit <- suppressMessages(lmer(as.formula(m$formula), d, control = lmerControl(
    optimizer = "nloptwrap", optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e5))))
  p <- length(fixef(fit))
  for (kind in c("CR0", "CR1", "CR2", "CR3")) {
    V <- vcovCR(fit, cluster = d[[m$cluster]], type = kind)
    each <- coef_test(fit, V, test = "Satterthwaite")
    all <- Wald_test(fit, constrain_zero(2:p), V, test = "HTZ")
    m[[kind]] <- list(vcov = as.matrix(V), df = each[["df_Satt"]], p = each[["p_Satt"]],
                      F = all$Fstat, num_df = all$df_num, den_df = all$df_denom, p_F = all$p_val)
  }
  m
})
cat(toJSON(result, digits = NA, auto_unbox = TRUE, pretty = TRUE))
