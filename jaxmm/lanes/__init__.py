"""Many searches at once, one a lane: how lanes advance, and by the protocol ``problem.Problem`` how each is evaluated.

``linear_blocks``, ``linear_own`` and ``generalised_blocks`` by closed forms (``closed_form``, ``laplace_blocks``),
``linear_lanes``, ``linear_rows`` and ``generalised_lanes`` through the criterion of one fit.  Lanes of ``linear_own``
and ``linear_rows`` differ in more than y (``own_rows``, ``own_columns``, ``systems``).  The lanes are the last axis.
"""
