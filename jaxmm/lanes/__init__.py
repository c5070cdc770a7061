"""Many searches at once, one a lane: how lanes advance, and by the protocol ``problem.Problem`` how each is evaluated.

``linear_blocks`` and ``generalised_blocks`` by closed forms (``closed_form``, ``laplace_blocks``), ``linear_lanes``,
``linear_rows`` and ``generalised_lanes`` through the criterion of one fit.  The lanes are the last axis.
"""
