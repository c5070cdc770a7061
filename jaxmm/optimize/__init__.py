"""Minimising a deviance in few parameters: Newton's method inside a trust region, driven by exact derivatives.

With g the gradient, H = Q diag(w) Q' the Hessian, the step in the region |s| <= Delta is

    s = -Q (Q'g / (|w| + mu)),    mu >= 0 the smallest with |s| <= Delta

(absolute eigenvalues, so that saddles repel).  The search ends on the Newton decrement ½ g'|H|^-1 g, which is in
units of deviance whatever the scale of theta; then one more step is taken, which squares what error is left.
theta = 0 is always a stationary point, often a saddle: where the least eigenvalue is negative at the end, the
search leaves along it.

``region`` holds the decisions, functions of arrays; three drivers take them: ``host``, one compiled evaluation at a
time; ``loop``, a search as one compiled loop; and ``lanes.advance``, many searches in steps of a fixed cost.  ``ends``
holds settings and states, ``again`` the second search.
"""

from jaxmm.optimize.again import LOWER as LOWER
from jaxmm.optimize.again import is_better as is_better
from jaxmm.optimize.again import is_lower as is_lower
from jaxmm.optimize.again import roughly as roughly
from jaxmm.optimize.again import search_again as search_again
from jaxmm.optimize.ends import RUNNING as RUNNING
from jaxmm.optimize.ends import Control as Control
from jaxmm.optimize.ends import Search as Search
from jaxmm.optimize.ends import Status as Status
from jaxmm.optimize.ends import as_control as as_control
from jaxmm.optimize.host import Objective as Objective
from jaxmm.optimize.host import minimise as minimise
from jaxmm.optimize.loop import minimise_in_loop as minimise_in_loop
from jaxmm.optimize.region import FLAT as FLAT
from jaxmm.optimize.region import STEADY as STEADY
from jaxmm.optimize.region import is_flat as is_flat
