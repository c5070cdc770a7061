# The artificial trial BCVA of the R package mmrm (0.3.18, Apache License 2.0), a subject a line and a visit a column.
# Rscript bcva.R path/to/mmrm  writes bcva.csv.gz from its data/bcva_data.rda; every number comes back to the last bit.
load(file.path(commandArgs(TRUE)[1], "data", "bcva_data.rda"))
shortest <- function(x) vapply(x, function(v) {
  if (is.na(v)) return("")
  for (digits in 15:17) if (as.numeric(text <- formatC(v, digits = digits, format = "g", width = 1)) == v) return(text)
}, "")
subject <- c("USUBJID", "ARMCD", "RACE", "BCVA_BL")
bcva <- as.data.frame(bcva_data)
wide <- reshape(bcva[c(subject, "AVISIT", "BCVA_CHG")], idvar = subject, timevar = "AVISIT", direction = "wide")
names(wide) <- sub("BCVA_CHG.", "", names(wide), fixed = TRUE)
wide <- wide[c(subject, levels(bcva$AVISIT))]
wide[-(1:3)] <- lapply(wide[-(1:3)], shortest)
out <- gzfile("bcva.csv.gz", "w", compression = 9)
write.csv(wide, out, row.names = FALSE, quote = FALSE, eol = "\n"); close(out)
