# Writes model_matrices.json: R's model matrices of many formulas on one small table, for the fit and for new rows.
library(splines); library(jsonlite)
set.seed(42); n <- 40
d <- data.frame(
 x = round(rnorm(n, 5, 2), 3), z = round(runif(n, 1, 9), 3), k = sample(1:6, n, TRUE),
 f = factor(sample(c("q","r","s"), n, TRUE), levels=c("r","q","s")),
 h = factor(sample(c("u","v"), n, TRUE)),
 w = sample(c("beta","Alpha","gamma","delta"), n, TRUE),
 o = factor(sample(c("lo","mid","hi","top","xx"), n, TRUE), levels=c("lo","mid","hi","top","xx"), ordered=TRUE),
 b = sample(c(TRUE,FALSE), n, TRUE), stringsAsFactors=FALSE)
d[["my x"]] <- round(rnorm(n),3); d[["my f"]] <- factor(sample(c("a b","c"),n,TRUE)); d[["a.b_c"]] <- round(rexp(n),3)
d$w <- factor(d$w, levels=sort(unique(d$w), method="radix"))
new <- d[c(3,1,17),]; new$x <- c(-4, 5.5, 14); new$z <- c(0.5, 4, 12)
forms <- c(
 "~ 1", "~ 0 + f", "~ f - 1", "~ x + f", "~ f * h", "~ f:h", "~ 0 + f:h", "~ x:f", "~ 0 + x:f + h", "~ f + x:f", "~ h + f:h",
 "~ f:h + f", "~ h:f + f + x", "~ x:f:h + x:f", "~ (f + h + x)^2", "~ (x + z)^2 - x", "~ f/h", "~ f/x", "~ (f + h)/x", "~ h %in% f", "~ f + h %in% f", "~ f*h*x - f:h:x", "~ f*x - x",
 "~ 0 + x + f", "~ x + 0 + f + 1", "~ -1 + x*f", "~ o", "~ o*h", "~ 0 + o", "~ b", "~ b*x", "~ 0 + b + f", "~ w*h",
 "~ poly(x, 2)", "~ poly(x, 3)*f", "~ poly(x, 2, raw = TRUE)", "~ poly(x, degree=2, raw=TRUE)", "~ poly(x, 1)", "~ scale(x)", "~ scale(x, scale = FALSE)*h", "~ scale(x, center=FALSE)", "~ bs(x)", "~ bs(x, df = 6)", "~ bs(x, knots = c(4, 6))", "~ bs(x, 5, degree=2, intercept=TRUE)", "~ ns(x, 3)", "~ ns(x, df=4)*h", "~ ns(x, knots=c(4,5,6))", "~ ns(x)", "~ ns(x, 4, intercept=TRUE)",
 "~ ns(z, 3, Boundary.knots = c(2, 8))",
 "~ I(x^2) + I(x > 5)", "~ I(-x^2) + I((x + 1) * z/2) + I(x %/% 2) + I(x%%2)", "~ log(z) + log2(z) + log10(z) + log1p(z) + exp(x) + sqrt(z) + abs(x) + sin(x) + cos(x) + tan(x) + floor(x)", "~ log(z, base = 3) + log(z, 7)",
 "~ factor(k)", "~ factor(k)*x", "~ as.factor(k):x", "~ factor(k > 3) + ordered(k)", "~ as.numeric(b) + I(f == 'q') + I(f %in% c(\"q\", \"s\"))", "~ I(!(x > 5) & z < 3)", "~ `my x` * `my f`", "~ I(`my x`^2) + a.b_c", "~ log(a.b_c + 1)*`my f`",
 "~ (x > 5)", "~ I(x - 1e5) + I(x/1e-05) + I(x * 123456) + I(x + 0.1)", "~ f + f:x - 1", "~ x + (f + h)", "~ f*(x + z)", "~ (f + h + b)^3 - f:h:b", "~ x + x", "~ h:x + f:x", "~ f:o", "~ I(2^x) + I(2*pi*x) + exp(-x)", "~ stats::poly(x, 2) + splines::ns(z, 2)", "~ I(x^-1) + I(-(x))", "~ round(x, 1) + ceiling(x) + sign(x)", "~ f %in% h + x", "~ bs(log(z), df=4):h", "~ poly(x, 5)", "~ I(sin(2*pi*k/6))", "~ x*z*k", "~ 1 + x - 1 + 1", "~ h + 0 + f:b")
out <- list()
num <- function(m) {m<-unclass(m); attributes(m)<-list(dim=dim(m)); lapply(seq_len(nrow(m)), function(i) unname(m[i,]))}
for (s in forms) {
  f <- as.formula(s); mf <- model.frame(f, d); X <- model.matrix(f, mf)
  q <- qr(X, tol=1e-7); keep <- sort(q$pivot[seq_len(q$rank)])
  N <- tryCatch({mt <- attr(mf,"terms"); mfn <- suppressWarnings(model.frame(mt, new, xlev=.getXlevels(mt, mf))); num(model.matrix(mt, mfn))}, error=function(e) {message(s, conditionMessage(e)); NULL})
  out[[length(out)+1]] <- list(formula=s, names=colnames(X), dropped=I(colnames(X)[setdiff(seq_len(ncol(X)),keep)]), X=num(X), new=N)
}
con <- list(list("~ f*o", list(f="contr.sum",o="contr.helmert")), list("~ w + h", list(w="contr.poly", h="contr.sum")), list("~ 0 + w:h", list(w="contr.helmert", h="contr.sum")), list("~ factor(k)*f", list("factor(k)"="contr.sum")), list("~ o + b", list(o="contr.treatment")))
for (cc in con) { f<-as.formula(cc[[1]]); X<-model.matrix(f,d,contrasts.arg=cc[[2]]); q<-qr(X,tol=1e-7); keep<-sort(q$pivot[seq_len(q$rank)]); out[[length(out)+1]] <- list(formula=cc[[1]], contrasts=lapply(cc[[2]], function(v) sub("contr.","",v)), names=colnames(X), dropped=I(colnames(X)[setdiff(seq_len(ncol(X)),keep)]), X=num(X)) }
dd <- d; for (v in c("f","h","w","o","my f")) dd[[v]] <- as.character(dd[[v]])
nn <- new; for (v in c("f","h","w","o","my f")) nn[[v]] <- as.character(nn[[v]])
write(toJSON(list(data=as.list(dd), new=as.list(nn), cases=out), digits=NA, auto_unbox=TRUE), "model_matrices.json")
