"""Fits of several imputations of one data set, pooled: ``rules`` (arrays), ``datasets`` (what is read of fits and
batches), ``at_pooled`` (likelihoods at the pooled parameters), ``pooled`` (the result)."""
