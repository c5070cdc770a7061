build <- function(problem, frame) {
  family <- if (is.null(problem$family)) gaussian() else problem$family
  glmmTMB(problem$formula, frame, family = family, REML = problem$reml, doFit = FALSE)
}

fit <- function(structure, problem) {
  model <- quietly(fitTMB(structure))
  list(
    deviance = 2 * model$fit$objective,
    converged = model$fit$convergence == 0 && isTRUE(model$sdr$pdHess),
    note = if (model$fit$convergence == 0) "" else model$fit$message
  )
}
