# Influence and leverage: lme4 1.1-31, sleepstudy without every 7th row.
# Rscript influence.R > influence.json, in this folder
suppressMessages({library(lme4); library(jsonlite)})
d <- read.csv(file.path("..", "..", "jaxmm", "datasets", "sleepstudy.csv"))
d <- d[seq_len(nrow(d)) %% 7 != 0, ]
d$Subject <- factor(d$Subject)
tight <- lmerControl(optimizer = "nloptwrap", optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e5))
fit <- lmer(Reaction ~ Days + (Days | Subject), d, control = tight)
inf <- suppressMessages(influence(fit, groups = "Subject"))
p <- read.csv(file.path("..", "..", "jaxmm", "datasets", "penicillin.csv"))
p <- p[seq_len(nrow(p)) %% 5 != 0, ]
crossed <- lmer(diameter ~ 1 + (1 | plate) + (1 | sample), p, control = tight)
cat(toJSON(list(subject = rownames(dfbetas(inf)), dfbeta = dfbeta(inf), dfbetas = dfbetas(inf),
                cooks_distance = rowSums((dfbeta(inf) %*% solve(as.matrix(vcov(fit)))) * dfbeta(inf)) / 2, hat = unname(hatvalues(fit)),
                crossed = unname(hatvalues(crossed))),
           digits = NA, auto_unbox = TRUE, pretty = TRUE))
