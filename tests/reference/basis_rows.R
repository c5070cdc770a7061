# lme4's fits where rows go for a missing value of another column, or count with a weight of zero: splines, polynomials
# and centres are those of every row that has their own column.  Rscript basis_rows.R > basis_rows.csv
suppressMessages({library(lme4); library(splines)})
d <- sleepstudy
i <- seq_len(nrow(d))
d$z <- (i * 37) %% 101 / 10
d$w <- ifelse(i %% 11 == 0, 0, 1 + i %% 3)
d$Reaction[i %% 7 == 0 | (d$Days > 7 & i %% 3 == 0)] <- NA
d$z[i %% 13 == 0] <- NA
show <- function(formula, what, name, value) cat(sprintf('"%s",%s,"%s",%.15g\n', formula, what, name, value))
cat("formula,what,name,value\n")
terms <- c("ns(Days, df = 3) + z", "bs(Days, df = 4) + scale(z)", "poly(Days, 2) + z", "scale(Days) * scale(z)",
           "I((Days - mean(Days))^2) + ns(log(Days + 1), df = 2) + z")
for (t in terms) {
  formula <- paste("Reaction ~", t, "+ (1 | Subject)")
  fit <- lmer(as.formula(formula), d, REML = FALSE)
  show(formula, "loglik", "", as.numeric(logLik(fit)))
  for (name in names(fixef(fit))) show(formula, "fixef", name, fixef(fit)[[name]])
  # model.frame keeps the rows of weight zero, which do not change the basis
  X <- getME(suppressWarnings(lmer(as.formula(formula), d, weights = w, control = lmerControl(optimizer = NULL))), "X")
  X <- X[d[rownames(X), "w"] > 0, ]
  for (name in colnames(X)) show(formula, "weighted", name, sum(X[, name] * seq_len(nrow(X))))
}
counts <- lmer(Reaction ~ ns(Days, df = 3) + scale(z) + (1 | Subject), d, REML = FALSE)
new <- data.frame(Days = c(0.5, 3, 9, 12), z = c(1, 2, 3, 4))
for (k in 1:4) show("predict", "new", k, predict(counts, new, re.form = NA)[[k]])
