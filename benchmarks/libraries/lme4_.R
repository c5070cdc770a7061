# lme4, one measurement in one process; prints one line "RESULT {json}".
#   Rscript lme4_.R lme4 TASK FOLDER REPEAT BUDGET FORMULA REML
# One pass: lFormula (build), then mkLmerDevfun, optimizeLmer and mkMerMod (fit), which is what lmer() calls.
arguments <- commandArgs(TRUE)
folder <- arguments[3]
wanted <- as.integer(arguments[4])
budget <- as.numeric(arguments[5])
formula <- as.formula(arguments[6])
reml <- arguments[7] == "True"
clock <- function() as.numeric(Sys.time())

peak <- function(field) {
  line <- grep(field, readLines("/proc/self/status"), value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) / 1024
}
json <- function(x) {
  one <- function(v) if (is.character(v)) encodeString(v, quote = "\"") else if (is.logical(v)) tolower(v) else
    format(v, digits = 15)
  x <- x[vapply(x, function(v) length(v) == 1 && !is.na(v), NA)]
  paste0("{", paste0("\"", names(x), "\": ", vapply(x, one, ""), collapse = ", "), "}")
}
finish <- function(result) {
  cat("RESULT ", json(result), "\n", sep = "")
  quit("no", 0)
}

started <- clock()
if (!requireNamespace("lme4", quietly = TRUE)) finish(list(status = "not installed"))
suppressMessages(library(lme4))
result <- list(
  import_s = clock() - started, version = as.character(packageVersion("lme4")),
  versions = paste0("R ", getRversion(), ", Matrix ", packageVersion("Matrix"))
)

frame <- list()
for (line in readLines(file.path(folder, "columns.tsv"))) {
  field <- strsplit(line, "\t")[[1]]
  stored <- if (field[2] == "f8") "f8" else "i4"
  file <- file.path(folder, paste0(field[1], ".", stored))
  values <- readBin(file, if (stored == "f8") "double" else "integer", file.size(file), if (stored == "f8") 8 else 4)
  if (field[2] == "factor") values <- structure(values + 1L, levels = field[-(1:2)], class = "factor")
  frame[[field[1]]] <- values
}
frame <- as.data.frame(frame, stringsAsFactors = FALSE)
for (group in setdiff(all.vars(subbars(formula)), all.vars(nobars(formula))))
  if (!is.factor(frame[[group]]) && is.integer(frame[[group]])) frame[[group]] <- factor(frame[[group]])
result$rows <- nrow(frame)
result$base_mb <- peak("VmRSS")

build <- fit <- numeric(0)
while (length(fit) == 0 || (length(fit) < wanted && sum(build, fit) + tail(build, 1) + tail(fit, 1) < budget)) {
  t0 <- clock()
  parsed <- lFormula(formula, frame, REML = reml)
  t1 <- clock()
  deviance <- do.call(mkLmerDevfun, c(parsed, list(control = lmerControl())))
  optimum <- suppressMessages(suppressWarnings(optimizeLmer(deviance)))
  checked <- suppressMessages(suppressWarnings(
    checkConv(attr(optimum, "derivs"), optimum$par, lmerControl()$checkConv, environment(deviance)$lower)
  ))
  model <- suppressMessages(mkMerMod(environment(deviance), optimum, parsed$reTrms, parsed$fr, lme4conv = checked))
  build <- c(build, t1 - t0)
  fit <- c(fit, clock() - t1)
}
complaints <- grep("singular", checked$messages, invert = TRUE, value = TRUE)
result <- c(result, list(
  status = "ok",
  converged = optimum$conv == 0 && length(complaints) == 0,
  deviance = -2 * as.numeric(logLik(model, REML = reml)),
  build_s = build[1],
  build_again_s = median(build),
  first_fit_s = fit[1],
  warm_s = median(fit),
  warm_min_s = min(fit),
  formula_s = median(build + fit),
  repeats = length(fit),
  note = paste(c(if (isSingular(model)) "singular", complaints), collapse = "; ")
))
finish(result)
