# Standard errors of predictions: glmmTMB 1.1.5, of a mean with everything uncertain (β, b, and the variances), for
# levels that the fit has seen, a level that it has not, and at b = 0; on the link scale.
# Rscript predictions.R > predictions.json, in this folder
suppressMessages({library(glmmTMB); library(jsonlite)})
data <- function(name, every) {
  d <- read.csv(file.path("..", "..", "jaxmm", "datasets", paste0(name, ".csv")))
  d[seq_len(nrow(d)) %% every != 0, ]
}
sleep <- data("sleepstudy", 7)
sleep$Subject <- factor(sleep$Subject)
ticks <- data("grouseticks", 3)
ticks$height <- (ticks$HEIGHT - 460) / 50
for (n in c("BROOD", "LOCATION")) ticks[[n]] <- factor(ticks[[n]])
penicillin <- data("penicillin", 5)
models <- list(
  list(data = "sleepstudy", formula = "Reaction ~ Days + (Days | Subject)", family = "gaussian",
       new = data.frame(Subject = c("308", "309", "372", "new"), Days = c(0, 9, 12, 5))),
  list(data = "penicillin", formula = "diameter ~ 1 + (1 | plate) + (1 | sample)", family = "gaussian",
       new = data.frame(plate = c("a", "b", "new", "new"), sample = c("A", "F", "C", "new"))),
  list(data = "grouseticks", formula = "TICKS ~ height + (1 | BROOD) + (1 | LOCATION)", family = "poisson",
       new = data.frame(BROOD = c("501", "510", "new", "new"), LOCATION = c("32", "7", "32", "new"),
                        height = c(0, 0.5, 0.2, -0.3))))
tables <- list(sleepstudy = sleep, penicillin = penicillin, grouseticks = ticks)
result <- lapply(models, function(m) {
  fit <- glmmTMB(as.formula(m$formula), tables[[m$data]], family = m$family, REML = FALSE,
                 control = glmmTMBControl(optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-14)))
  all <- predict(fit, m$new, type = "link", se.fit = TRUE, allow.new.levels = TRUE)
  zero <- predict(fit, m$new, type = "link", se.fit = TRUE, re.form = NA)
  c(m, list(fit = as.numeric(all$fit), se = as.numeric(all$se.fit), se_at_zero = as.numeric(zero$se.fit)))
})
cat(toJSON(result, digits = 12, auto_unbox = TRUE, pretty = TRUE))
