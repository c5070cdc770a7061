"""Systems in M = Λ'Z'WZΛ + I.

``elimination.reduce(lams, gram)`` is the one entry: log|M| and [X y]'V^-1[X y] for any mixture of nested and
crossed factors.  ``spd`` holds the differentiable pieces, ``dense`` the oracle written from rows.
"""

from jaxmm.solver.elimination import reduce as reduce
