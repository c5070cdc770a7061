# lFormula, then mkLmerDevfun, optimizeLmer, checkConv and mkMerMod, which is what lmer() calls; for a generalised
# model glFormula, then mkGlmerDevfun, optimizeGlmer for theta alone, updateGlmerDevfun, optimizeGlmer for all, ...
build <- function(problem, frame) {
  if (is.null(problem$family)) lFormula(problem$formula, frame, REML = problem$reml)
  else glFormula(problem$formula, frame, family = problem$family)
}

fit <- function(parsed, problem) {
  linear <- is.null(problem$family)
  control <- if (linear) lmerControl() else glmerControl()
  if (linear) {
    deviance <- do.call(mkLmerDevfun, c(parsed, list(control = control)))
    optimum <- quietly(optimizeLmer(deviance))
  } else {
    parsed$formula <- NULL
    deviance <- do.call(mkGlmerDevfun, c(parsed, list(control = control, nAGQ = 0)))
    quietly(optimizeGlmer(deviance, nAGQ = 0, calc.derivs = FALSE))
    deviance <- updateGlmerDevfun(deviance, parsed$reTrms)
    optimum <- quietly(optimizeGlmer(deviance, stage = 2))
  }
  checked <- quietly(
    checkConv(attr(optimum, "derivs"), optimum$par, control$checkConv, environment(deviance)$lower)
  )
  model <- quietly(mkMerMod(environment(deviance), optimum, parsed$reTrms, parsed$fr, lme4conv = checked))
  complaints <- grep("singular", checked$messages, invert = TRUE, value = TRUE)
  list(
    deviance = -2 * as.numeric(if (linear) logLik(model, REML = problem$reml) else logLik(model)),
    converged = optimum$conv == 0 && length(complaints) == 0,
    note = paste(c(if (isSingular(model)) "singular", complaints), collapse = "; ")
  )
}

# y -> list(deviance, converged) by refit(), for many responses of one design; nothing is tuned
refitter <- function(problem, frame) {
  started <- quietly(
    if (is.null(problem$family)) lmer(problem$formula, frame, REML = problem$reml)
    else if (is.null(problem$trials)) glmer(problem$formula, frame, family = problem$family)
    else glmer(problem$formula, frame, family = problem$family, weights = problem$trials)
  )
  function(y) {
    model <- quietly(refit(started, y))
    complaints <- grep("singular", model@optinfo$conv$lme4$messages, invert = TRUE, value = TRUE)
    list(deviance = -2 * as.numeric(logLik(model)), converged = length(complaints) == 0)
  }
}
