"""Pictures of a fit; each returns what it drew into, axes or a figure. They need matplotlib (jaxmm[plot]).

caterpillar(fit)        the effects of a factor's levels with intervals
shrinkage(fit)          data, own line, BLUP and population line, a panel per level
shrinkage_arrows(fit)   from own estimates to BLUPs in the plane of intercept and slope
effects(fit, "x")        the fixed effects over a covariate with bands
predictions(fit, new, "x")  predictions of new rows with their intervals
residuals(fit)          residuals against fitted values
volcano(batch, "x")     many responses: estimates against p
p_histogram(batch, "x")   their p-values
effects_by_response(batch, "x")  their estimates with intervals
qq(fit), qq_ranef(fit)  residuals, random effects against the normal distribution
"""

from jaxmm.diagnose.pictures import qq as qq
from jaxmm.diagnose.pictures import qq_ranef as qq_ranef
from jaxmm.diagnose.pictures import residuals as residuals
from jaxmm.plots.effects import effects as effects
from jaxmm.plots.levels import caterpillar as caterpillar
from jaxmm.plots.lines import shrinkage as shrinkage
from jaxmm.plots.lines import shrinkage_arrows as shrinkage_arrows
from jaxmm.plots.many import effects_by_response as effects_by_response
from jaxmm.plots.many import p_histogram as p_histogram
from jaxmm.plots.many import volcano as volcano
from jaxmm.plots.predictions import predictions as predictions
