"""Pictures of a fit; each returns what it drew into, axes or a figure. They need matplotlib (jaxmm[plot]).

caterpillar(fit)        the effects of a factor's levels with intervals
shrinkage(fit)          data, own line, BLUP and population line, a panel per level
shrinkage_arrows(fit)   from own estimates to BLUPs in the plane of intercept and slope
"""

from jaxmm.plots.effects import effects as effects
from jaxmm.plots.levels import caterpillar as caterpillar
from jaxmm.plots.lines import shrinkage as shrinkage
from jaxmm.plots.lines import shrinkage_arrows as shrinkage_arrows
