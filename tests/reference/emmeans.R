# Marginal means, contrasts, slopes and joint tests: emmeans 1.8 with lmerTest, pbkrtest, lme4's glmer and glmmTMB.
# With each table stand the coefficients and the covariance matrix it was made of, since optimisers differ.
# Rscript emmeans.R > emmeans.json, in this folder
suppressMessages({library(lmerTest); library(emmeans); library(jsonlite)})
emm_options(lmerTest.limit = 1e5, pbkrtest.limit = 1e5, msg.interaction = FALSE, msg.nesting = FALSE)
data <- function(name, every) {
  d <- read.csv(file.path("..", "..", "jaxmm", "datasets", paste0(name, ".csv")))
  d[seq_len(nrow(d)) %% every != 0, ]
}
factors <- function(d, names) { for (n in names) d[[n]] <- factor(d[[n]]); d }
oats <- factors(data("oats", 5), c("Block", "Variety"))
oats$N <- factor(oats$nitro)
oats$O <- factor(oats$nitro, ordered = TRUE)
oats$x <- (seq_len(nrow(oats)) * 37) %% 17 / 10
whole <- factors(data("oats", 1000), c("Block", "Variety"))
holes <- oats[!(oats$Variety == "Victory" & oats$nitro == 0.6), ]
machines <- factors(data("machines", 7), c("Worker", "Machine"))
sleep <- factors(data("sleepstudy", 7), "Subject")
sleep$late <- factor(ifelse(sleep$Days > 4, "late", "early"))
sleep$odd <- as.integer(sleep$Days %% 2 == 1)
sleep$long <- sleep$Reaction > 0 & sleep$Days > 6
cbpp <- factors(data("cbpp", 1000), c("herd", "period"))
ticks <- factors(data("grouseticks", 1000), c("BROOD", "YEAR"))
ticks$H <- (ticks$HEIGHT - 450) / 100
tables <- list()
clean <- function(s, value) {
  s <- as.data.frame(s)
  names(s)[names(s) %in% c("prob", "rate", "response", "odds.ratio", "ratio", "emmean", "estimate",
                           grep("\\.trend$", names(s), value = TRUE))] <- value
  names(s)[names(s) == "SE"] <- "se"
  names(s)[names(s) %in% c("lower.CL", "asymp.LCL")] <- "lower"
  names(s)[names(s) %in% c("upper.CL", "asymp.UCL")] <- "upper"
  names(s)[names(s) %in% c("t.ratio", "z.ratio")] <- "statistic"
  names(s)[names(s) == "p.value"] <- "p"
  for (n in names(s)) if (is.factor(s[[n]])) s[[n]] <- as.character(s[[n]])
  s$null <- NULL; s$.group <- NULL
  s
}
means <- function(fit, specs, by = NULL, ..., type = "link", trend = NULL, contrasts = list(), ddf = NULL) {
  mode <- if (is.null(ddf)) "satterthwaite" else ddf
  call <- c(list(fit, specs), list(...))
  if (!is.null(by)) call$by <- by
  if (inherits(fit, "merMod") && isLMM(fit)) call$mode <- mode
  e <- suppressMessages(if (is.null(trend)) do.call(emmeans, call) else do.call(emtrends, c(call, list(var = trend))))
  V <- as.matrix(e@V)
  out <- list(specs = I(specs), by = if (is.null(by)) NULL else I(by), args = list(...), type = type, trend = trend,
              ddf = if (inherits(fit, "merMod") && isLMM(fit)) mode else NULL,
              beta = e@bhat[!is.na(e@bhat)], V = V, frame = clean(summary(e, type = type), "value"), contrasts = list())
  for (m in contrasts) {
    args <- c(list(e, m$method), m[setdiff(names(m), c("method", "adjust"))])
    k <- suppressMessages(do.call(contrast, args))
    own <- suppressMessages(if (is.null(m$adjust)) summary(k, type = type, infer = c(TRUE, TRUE)) else
      summary(k, type = type, infer = c(TRUE, TRUE), adjust = m$adjust))
    m$table <- clean(own, "estimate")
    out$contrasts <- c(out$contrasts, list(m))
  }
  out
}
joint <- function(fit, by = NULL, mode = "satterthwaite") {
  args <- list(fit); if (!is.null(by)) args$by <- by
  lmm <- inherits(fit, "merMod") && isLMM(fit)
  if (lmm) args$mode <- mode
  e <- suppressMessages(ref_grid(fit, mode = mode))
  j <- as.data.frame(suppressMessages(do.call(joint_tests, args)))
  list(by = if (is.null(by)) NULL else I(by), ddf = if (lmm) mode else NULL, beta = e@bhat[!is.na(e@bhat)],
       V = as.matrix(e@V), term = j[["model term"]], df1 = j$df1, df2 = j$df2, F = j$F.ratio, p = j$p.value,
       group = if (is.null(by)) NULL else as.character(j[[by]]), note = if (is.null(j$note)) NULL else trimws(j$note))
}
tight <- lmerControl(optimizer = "nloptwrap", optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e5))
mixed <- function(formula, d) suppressMessages(lmer(as.formula(formula), d, control = tight))
all <- list(list(method = "pairwise"), list(method = "revpairwise"), list(method = "trt.vs.ctrl"),
            list(method = "consec"), list(method = "eff"), list(method = "poly"))
adjusts <- lapply(c("tukey", "sidak", "scheffe", "holm", "bonferroni", "fdr", "none", "mvt"),
                  function(a) list(method = "pairwise", adjust = a))
every <- function(fit, specs, ...) c(lapply(c("equal", "proportional", "outer", "cells", "flat"), function(w)
  means(fit, specs, ..., weights = w)), list(means(fit, specs, ..., weights = w0)))
result <- list()
add <- function(data, formula, fit, means, joint = list(), family = NULL, ...) {
  result[[length(result) + 1]] <<- list(data = data, formula = formula, family = family, means = means, joint = joint)
}
f <- "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)"; m <- mixed(f, machines)
add("machines", f, m, list(means(m, "Machine", contrasts = all),
  means(m, "Machine", ddf = "kenward-roger", contrasts = c(adjusts, list(list(method = "trt.vs.ctrl", ref = 2))))),
  list(joint(m), joint(m, mode = "kenward-roger")))
f <- "yield ~ Variety * N + (1 | Block/Variety)"; m <- mixed(f, oats); w0 <- c(1, 2, 3, 4)
add("oats", f, m, c(list(means(m, "N", "Variety", contrasts = all), means(m, c("Variety", "N"), contrasts = all[1]),
  means(m, c("N"), "Variety", ddf = "kenward-roger", contrasts = list(list(method = "poly"))),
  means(m, "Variety", at = list(N = c("0", "0.6")), contrasts = all[1])), every(m, "Variety")),
  list(joint(m), joint(m, "Variety"), joint(m, mode = "kenward-roger")))
f <- "yield ~ Variety + nitro + (1 | Block/Variety)"; m <- mixed(f, whole)
add("whole", f, m, list(means(m, "Variety", contrasts = adjusts), means(m, "nitro", at = list(nitro = c(0, 0.25, 0.5)))),
  list(joint(m)))
f <- "yield ~ Variety * x + N + (1 | Block)"; m <- mixed(f, oats); w0 <- c(1, 2, 3)
add("oats", f, m, c(list(means(m, "Variety", trend = "x", contrasts = all[1]), means(m, "Variety", contrasts = all[1]),
  means(m, c("Variety", "x"), at = list(x = c(0, 1.5))), means(m, "N", "Variety")), every(m, "N")), list(joint(m)))
f <- "yield ~ poly(nitro, 2) * Variety + (1 | Block)"; m <- mixed(f, oats)
add("oats", f, m, list(means(m, "Variety", at = list(nitro = c(0, 0.3)), contrasts = all[1]),
  means(m, "Variety", contrasts = all[1])), list(joint(m)))
f <- "yield ~ Variety * O + (1 | Block/Variety)"; m <- mixed(f, oats)
add("oats", f, m, list(means(m, "O", contrasts = all), means(m, "Variety", "O", contrasts = all[3])), list(joint(m)))
f <- "yield ~ Variety * N + (1 | Block)"; m <- mixed(f, holes); w0 <- c(4, 3, 2, 1)
add("holes", f, m, c(list(means(m, "N", "Variety", contrasts = all[1]), means(m, "Variety", contrasts = all[1]),
  means(m, c("Variety", "N"))), every(m, "Variety")), list(joint(m)))
f <- "Reaction ~ Days * late + (1 | Subject)"; m <- mixed(f, sleep)
add("sleep", f, m, list(means(m, "late", contrasts = all[1]), means(m, "late", trend = "Days", contrasts = all[1]),
  means(m, "late", ddf = "kenward-roger")), list(joint(m)))
f <- "Reaction ~ Days + odd * late + long + (Days | Subject)"; m <- mixed(f, sleep); w0 <- c(1, 2, 3, 4)
add("sleep", f, m, c(list(means(m, "late", contrasts = all[1]), means(m, "odd"), means(m, c("odd", "long"))),
  every(m, "late")), list(joint(m)))
f <- "yield ~ factor(nitro) * Variety + (1 | Block)"; m <- mixed(f, oats)
add("oats", f, m, list(means(m, "nitro", contrasts = all), means(m, "Variety", "nitro", contrasts = all[1])),
  list(joint(m)))
f <- "cbind(incidence, size - incidence) ~ period + (1 | herd)"
g <- function(formula, d, family) suppressMessages(glmer(as.formula(formula), d, family = family, control = glmerControl(
  optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))))
m <- g(f, cbpp, binomial)
add("cbpp", f, m, list(means(m, "period", contrasts = all), means(m, "period", type = "response", contrasts = all),
  means(m, "period", type = "response", contrasts = adjusts)), list(joint(m)), family = list("binomial", "logit"))
m <- g(f, cbpp, binomial("probit"))
add("cbpp", f, m, list(means(m, "period", type = "response", contrasts = all[1])), family = list("binomial", "probit"))
f <- "TICKS ~ YEAR + H + offset(log(HEIGHT / 100)) + (1 | BROOD)"; m <- g(f, ticks, poisson)
add("ticks", f, m, list(means(m, "YEAR", type = "response", contrasts = all[1]), means(m, "YEAR"),
  means(m, "YEAR", at = list(H = 0.5))), list(), family = list("poisson", "log"))
f <- "TICKS ~ YEAR * log(HEIGHT / 450) + (1 | BROOD)"; m <- g(f, ticks, poisson)
add("ticks", f, m, list(means(m, "YEAR", type = "response", contrasts = all[1])), list(), family = list("poisson", "log"))
suppressMessages(library(glmmTMB))
f <- "TICKS ~ YEAR + H + (1 | BROOD)"; m <- suppressMessages(glmmTMB(as.formula(f), ticks, family = nbinom2))
add("ticks", f, m, list(means(m, "YEAR", type = "response", contrasts = all[c(1, 3)])), list(),
    family = list("nbinom2", "log"))
cat(toJSON(result, digits = NA, auto_unbox = TRUE, na = "string", null = "null"))
