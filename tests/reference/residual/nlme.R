# Models with correlated errors and unequal variances by nlme's gls and lme, to be polished by polish.py.
# Rscript nlme.R  writes nlme.json. A record: the model in jaxmm's spelling; log likelihood, fixed effects, the row SDs as
# log phi = log sigma^2 of the dispersion formula, or the SD of each time where the structure has one each; correlations
# as nlme's natural parameters; covariances of effects. nlme's restricted likelihood is lme4's.
suppressMessages({library(nlme); library(jsonlite)})
tight <- list(maxIter = 500, msMaxIter = 5000, tolerance = 1e-12, msTol = 1e-13, returnObject = TRUE)
read <- function(name) {
  d <- read.csv(file.path("data", paste0(name, ".csv")), stringsAsFactors = TRUE)
  if (name == "Ovary") d <- transform(d, s = sin(2 * pi * Time), c = cos(2 * pi * Time))
  for (v in intersect(names(d), c("Rat", "Diet", "Mare", "Subject", "QB", "Lot", "Wafer", "Source", "Site")))
    d[[v]] <- factor(d[[v]])
  d
}
sets <- lapply(setNames(nm = c("Orthodont", "Ovary", "BodyWeight", "Dialyzer", "Oxide")), read)
# every seventh row away, and day 44: weeks with gaps
sets$BodyWeightGaps <- transform(sets$BodyWeight, Week = (Time + 6) / 7)
sets$BodyWeightGaps <- sets$BodyWeightGaps[sets$BodyWeightGaps$Time != 44, ]
sets$BodyWeightGaps <- sets$BodyWeightGaps[seq_len(nrow(sets$BodyWeightGaps)) %% 7 != 0, ]

out <- list()
add <- function(id, data, formula, residual = NULL, dispersion = NULL, random = NULL, bars = NULL, correlation = NULL,
                weights = NULL, times = NULL) {
  d <- sets[[data]]
  for (method in c("REML", "ML")) {
    best <- NULL
    for (opt in c("nlminb", "optim")) {
      m <- tryCatch(suppressWarnings(if (is.null(random)) {
        do.call(gls, list(as.formula(formula), d, correlation = correlation, weights = weights, method = method,
                          control = do.call(glsControl, c(tight, opt = opt))))
      } else {
        do.call(lme, list(as.formula(formula), d, random = random, correlation = correlation, weights = weights,
                          method = method, control = do.call(lmeControl, c(tight, opt = opt, niterEM = 60))))
      }), error = function(e) { message(id, " ", method, " ", opt, ": ", conditionMessage(e)); NULL })
      if (!is.null(m) && (is.null(best) || logLik(m) > logLik(best))) best <- m
    }
    if (is.null(best)) next
    b <- if (is.null(random)) coef(best) else fixef(best)
    s <- best$modelStruct
    sd <- best$sigma / (if (is.null(weights)) rep(1, nrow(d)) else varWeights(s$varStruct))
    one <- list(id = paste0(id, "_", tolower(method)), data = data, formula = paste(c(formula, bars), collapse = " + "),
                fixed = formula, residual = residual, dispersion = dispersion, method = method, n = nrow(d),
                loglik = as.numeric(logLik(best)), fixef = as.list(b), sigma = best$sigma)
    if (!is.null(s$corStruct)) one$correlation <- I(unname(coef(s$corStruct, unconstrained = FALSE)))
    if (!is.null(times)) one$sd <- as.list(tapply(sd, d[[times]], function(x) { stopifnot(diff(range(x)) < 1e-12); x[1] }))
    else {
      D <- model.matrix(as.formula(if (is.null(dispersion)) "~ 1" else dispersion), d)
      g <- qr.coef(qr(D), 2 * log(sd))
      stopifnot(max(abs(D %*% g - 2 * log(sd))) < 1e-8)
      one$log_phi <- as.list(g)
    }
    if (!is.null(random)) one$random <- lapply(rev(s$reStruct), function(p) unname(as.matrix(p)) * best$sigma^2)
    out[[length(out) + 1]] <<- one
  }
}
J <- "distance ~ age * Sex"; S <- ~ 1 | Subject
add("orthodont_us", "Orthodont", J, "us(age | Subject)", correlation = corSymm(form = S), weights = varIdent(form = ~ 1 | age), times = "age")
add("orthodont_homcs", "Orthodont", J, "homcs(age | Subject)", correlation = corCompSymm(form = S))
add("orthodont_cs", "Orthodont", J, "cs(age | Subject)", correlation = corCompSymm(form = S), weights = varIdent(form = ~ 1 | age), times = "age")
add("orthodont_ar1", "Orthodont", J, "ar1(1 | Subject)", correlation = corAR1(form = S))
add("orthodont_hetar1", "Orthodont", J, "hetar1(age | Subject)", correlation = corAR1(form = S), weights = varIdent(form = ~ 1 | age), times = "age")
add("orthodont_diag", "Orthodont", J, "diag(age | Subject)", weights = varIdent(form = ~ 1 | age), times = "age")
add("orthodont_ou", "Orthodont", J, "ou(age | Subject)", correlation = corCAR1(form = ~ age | Subject))
add("orthodont_exp", "Orthodont", J, "exp(age | Subject)", correlation = corExp(form = ~ age | Subject))
add("orthodont_gau", "Orthodont", J, "gau(age | Subject)", correlation = corGaus(2, form = ~ age | Subject))
add("orthodont_homcs_sex", "Orthodont", J, "homcs(age | Subject)", "~ Sex", correlation = corCompSymm(form = S), weights = varIdent(form = ~ 1 | Sex))
add("orthodont_ar1_sex", "Orthodont", J, "ar1(age | Subject)", "~ Sex", correlation = corAR1(form = S), weights = varIdent(form = ~ 1 | Sex))
add("orthodont_homcs_power", "Orthodont", J, "homcs(age | Subject)", "~ log(age)", correlation = corCompSymm(form = S), weights = varPower(form = ~ age))
add("orthodont_sex", "Orthodont", J, NULL, "~ Sex", weights = varIdent(form = ~ 1 | Sex))
add("orthodont_intercept_sex", "Orthodont", J, NULL, "~ Sex", random = list(Subject = ~ 1), bars = "(1 | Subject)", weights = varIdent(form = ~ 1 | Sex))
add("orthodont_slope_sex", "Orthodont", J, NULL, "~ Sex", random = list(Subject = ~ age), bars = "(age | Subject)", weights = varIdent(form = ~ 1 | Sex))
add("orthodont_intercept_power", "Orthodont", J, NULL, "~ log(age)", random = list(Subject = ~ 1), bars = "(1 | Subject)", weights = varPower(form = ~ age))
add("orthodont_intercept_exp", "Orthodont", J, NULL, "~ age", random = list(Subject = ~ 1), bars = "(1 | Subject)", weights = varExp(form = ~ age))
O <- "follicles ~ s + c"
add("ovary_ar1", "Ovary", O, "ar1(1 | Mare)", correlation = corAR1(form = ~ 1 | Mare))
add("ovary_ou", "Ovary", O, "ou(Time | Mare)", correlation = corCAR1(form = ~ Time | Mare))
add("ovary_exp", "Ovary", O, "exp(Time | Mare)", correlation = corExp(0.3, form = ~ Time | Mare))
add("ovary_slope_ar1", "Ovary", O, "ar1(1 | Mare)", random = list(Mare = pdDiag(~ s)), bars = "(s || Mare)", correlation = corAR1(form = ~ 1 | Mare))
B <- "weight ~ Time * Diet"
add("bodyweight_exp", "BodyWeight", B, "exp(Time | Rat)", correlation = corExp(20, form = ~ Time | Rat))
add("bodyweight_slope_ou_power", "BodyWeight", B, "ou(Time | Rat)", "~ log(Time)", random = list(Rat = ~ Time), bars = "(Time | Rat)", correlation = corCAR1(0.8, form = ~ Time | Rat), weights = varPower(form = ~ Time))
add("bodyweight_slope_power", "BodyWeight", B, NULL, "~ log(Time)", random = list(Rat = ~ Time), bars = "(Time | Rat)", weights = varPower(form = ~ Time))
add("bodyweight_gaps_ar1", "BodyWeightGaps", B, "ar1(Week | Rat)", correlation = corAR1(form = ~ Week | Rat))
add("bodyweight_gaps_slope_ar1", "BodyWeightGaps", B, "ar1(Week | Rat)", random = list(Rat = ~ Time), bars = "(Time | Rat)", correlation = corAR1(form = ~ Week | Rat))
D <- "rate ~ (pressure + I(pressure^2) + I(pressure^3) + I(pressure^4)) * QB"
add("dialyzer_power", "Dialyzer", D, NULL, "~ log(pressure)", weights = varPower(form = ~ pressure))
add("dialyzer_power_ar1", "Dialyzer", D, "ar1(1 | Subject)", "~ log(pressure)", correlation = corAR1(form = S), weights = varPower(form = ~ pressure))
add("dialyzer_intercept_exp", "Dialyzer", D, NULL, "~ pressure", random = list(Subject = ~ 1), bars = "(1 | Subject)", weights = varExp(form = ~ pressure))
add("oxide_source", "Oxide", "Thickness ~ Source", NULL, "~ Source", random = list(Lot = ~ 1, Wafer = ~ 1), bars = "(1 | Lot / Wafer)", weights = varIdent(form = ~ 1 | Source))
add("oxide_source_site", "Oxide", "Thickness ~ Source + Site", NULL, "~ Source * Site", random = list(Lot = ~ 1, Wafer = ~ 1), bars = "(1 | Lot / Wafer)", weights = varIdent(form = ~ 1 | Source * Site))
write_json(list(made = paste("nlme", packageVersion("nlme")), fits = out), "nlme.json", digits = 17, auto_unbox = TRUE, null = "null")
cat(length(out), "fits\n")
