"""Many searches at once, one a lane: how lanes advance, and by the protocol ``problem.Problem`` how each is evaluated.

``linear_blocks``, ``linear_weighted``, ``linear_own`` and ``generalised_blocks`` by closed forms (``closed_form``,
``laplace_blocks``), ``linear_lanes``, ``linear_rows`` and ``generalised_lanes`` through the criterion of one fit.
Lanes of ``linear_weighted`` (X and Z shared, by ``products``), of ``linear_own`` (``table``, ``own_columns``) and of
``linear_rows`` differ in more than y (``own_rows``, ``systems``, ``own_search``); so may those whose
errors have a covariance, ``linear_patterns`` (no random effects; ``sweeps``) and ``linear_errors``.  The lanes are the
last axis.
"""
