"""Cross-validation by groups of rows: ``folds`` (what is left out together), ``density`` (of what was left out),
``validate`` (the fits and the result)."""
