# One (task, R package) measurement in one process; prints one line "RESULT {json}".
#   Rscript measure.R PEER TASK FOLDER REPEAT BUDGET FORMULA REML FAMILY LINK
# libraries/<peer>_.R has
#   build(problem, frame)   the unfitted model; `problem` has formula, reml, and family (an R family, or NULL)
#   fit(built, problem)     list(deviance, converged, note); `build` and `fit` are timed apart, in turns
arguments <- commandArgs(TRUE)
peer <- arguments[1]
folder <- arguments[3]
wanted <- as.integer(arguments[4])
budget <- as.numeric(arguments[5])
families <- list(binomial = binomial, poisson = poisson, gamma = Gamma)
problem <- list(
  formula = as.formula(arguments[6]), reml = arguments[7] == "True",
  family = if (arguments[8] != "gaussian") families[[arguments[8]]](link = arguments[9])
)
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
clock <- function() as.numeric(Sys.time())
quietly <- function(expression) suppressMessages(suppressWarnings(expression))

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
if (!requireNamespace(peer, quietly = TRUE)) finish(list(status = "not installed"))
quietly(library(peer, character.only = TRUE))
result <- list(
  import_s = clock() - started, version = as.character(packageVersion(peer)),
  versions = paste0("R ", getRversion(), ", Matrix ", packageVersion("Matrix"))
)
source(file.path(here, "libraries", paste0(tolower(peer), "_.R")))

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
bars <- regmatches(arguments[6], gregexpr("\\|[^)]*", arguments[6]))[[1]]
for (group in all.vars(parse(text = sub("^\\|+", "", bars))))
  if (is.integer(frame[[group]])) frame[[group]] <- factor(frame[[group]])
result$rows <- nrow(frame)
result$base_mb <- peak("VmRSS")

builds <- fits <- numeric(0)
while (length(fits) == 0 || (length(fits) < wanted && sum(builds, fits) + tail(builds, 1) + tail(fits, 1) < budget)) {
  t0 <- clock()
  built <- build(problem, frame)
  t1 <- clock()
  outcome <- fit(built, problem)
  fits <- c(fits, clock() - t1)
  builds <- c(builds, t1 - t0)
}
finish(c(result, list(
  status = "ok",
  converged = outcome$converged,
  deviance = outcome$deviance,
  build_s = builds[1],
  build_again_s = median(builds),
  first_fit_s = fits[1],
  warm_s = median(fits),
  warm_min_s = min(fits),
  formula_s = median(builds + fits),
  repeats = length(fits),
  note = outcome$note
)))
