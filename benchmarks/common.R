# What the measurements in R share: clock, memory, the line "RESULT {json}", the package, the staged columns.
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

# The package, attached, and the functions of its adapter, for a row that begins
load_peer <- function(peer, here) {
  started <- clock()
  if (!requireNamespace(peer, quietly = TRUE)) finish(list(status = "not installed"))
  quietly(library(peer, character.only = TRUE))
  source(file.path(here, "libraries", paste0(tolower(peer), "_.R")))
  list(
    import_s = clock() - started, version = as.character(packageVersion(peer)),
    versions = paste0("R ", getRversion(), ", Matrix ", packageVersion("Matrix"))
  )
}

read_doubles <- function(file, count = file.size(file) / 8) readBin(file, "double", count, 8)

# The columns of a folder as a data frame; whole numbers that the formula groups by become factors
staged <- function(folder, formula) {
  frame <- list()
  for (line in readLines(file.path(folder, "columns.tsv"))) {
    field <- strsplit(line, "\t")[[1]]
    stored <- if (field[2] == "f8") "f8" else "i4"
    file <- file.path(folder, paste0(field[1], ".", stored))
    values <- if (stored == "f8") read_doubles(file) else readBin(file, "integer", file.size(file), 4)
    if (field[2] == "factor") values <- structure(values + 1L, levels = field[-(1:2)], class = "factor")
    frame[[field[1]]] <- values
  }
  frame <- as.data.frame(frame, stringsAsFactors = FALSE)
  bars <- regmatches(formula, gregexpr("\\|[^)]*", formula))[[1]]
  for (group in all.vars(parse(text = sub("^\\|+", "", bars))))
    if (is.integer(frame[[group]])) frame[[group]] <- factor(frame[[group]])
  frame
}
