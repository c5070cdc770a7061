# Small published tables with repeated measures, as nlme has them -> data/*.csv. The numbers are those of the publications
# (which were not at hand); rows sorted by group.  Rscript data.R
#   Orthodont   Potthoff & Roy (1964) Biometrika 51, 313-326: growth of 27 children's jaws at 8, 10, 12 and 14 years
#   Ovary       Pierson & Ginther (1987) Animal Reproduction Science 14, 219-231: follicles of 11 mares over a cycle
#   BodyWeight  Hand & Crowder (1996) Practical Longitudinal Data Analysis, table A.1: 16 rats on three diets
#   Dialyzer    Vonesh & Carter (1992) Biometrics 48, 1-17: ultrafiltration of 20 dialysers at seven pressures
#   Oxide       Littell et al. (1996) SAS System for Mixed Models, p. 155: thickness on wafers in lots of two sources
suppressMessages(library(nlme))
put <- function(name, d, by) {
  d <- as.data.frame(d)
  for (v in names(d)) if (is.factor(d[[v]])) d[[v]] <- type.convert(as.character(d[[v]]), as.is = TRUE)
  d <- d[do.call(order, c(unname(d[by]), list(seq_len(nrow(d))))), ]
  write.csv(d, file.path("data", paste0(name, ".csv")), row.names = FALSE, quote = FALSE, eol = "\n")
}
put("Orthodont", Orthodont[c("distance", "age", "Subject", "Sex")], "Subject")
put("Ovary", Ovary, "Mare")
put("BodyWeight", BodyWeight, "Rat")
put("Dialyzer", Dialyzer, "Subject")
put("Oxide", Oxide, c("Lot", "Wafer"))
