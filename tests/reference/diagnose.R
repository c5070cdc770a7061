# Principal components of random effects (lme4) and variance inflation factors (car), for tests/test_check.py.
# Rscript diagnose.R > diagnose.json, in this folder
suppressMessages({library(lme4); library(car); library(jsonlite)})
data <- function(name, factors) {
  d <- read.csv(file.path("..", "..", "jaxmm", "datasets", paste0(name, ".csv")))
  for (n in factors) d[[n]] <- factor(d[[n]])
  d
}
oats <- data("oats", c("Block", "Variety"))
machines <- data("machines", c("Worker", "Machine"))
sleep <- data("sleepstudy", "Subject")
cbpp <- data("cbpp", c("herd", "period"))
lme <- function(f, d) suppressMessages(lmer(f, d, control = lmerControl(optCtrl = list(
  xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e5))))
fits <- list(
  "Reaction ~ Days + (Days | Subject)" = lme(Reaction ~ Days + (Days | Subject), sleep),
  "Reaction ~ Days + (Days || Subject)" = lme(Reaction ~ Days + (Days || Subject), sleep),
  "score ~ Machine + (0 + Machine | Worker)" = lme(score ~ Machine + (0 + Machine | Worker), machines),
  "cbind(incidence, size - incidence) ~ period + (1 | herd)" =
    glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial))
pca <- lapply(fits, function(fit) lapply(unclass(rePCA(fit)), function(p)
  list(sd = as.array(p$sdev), loadings = abs(p$rotation))))
inflated <- vif(lme(yield ~ Variety + nitro + I(nitro^2) + (1 | Block), oats))
cat(toJSON(list(versions = list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
                                car = as.character(packageVersion("car"))), pca = pca,
                vif = list(terms = rownames(inflated), gvif = inflated[, 1], df = inflated[, 2])),
           digits = 12, auto_unbox = TRUE, pretty = TRUE, matrix = "rowmajor"))
