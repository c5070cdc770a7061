"""What lanes have of their own, and where it comes from: a source each, by the protocol ``responses.Responses``.

An array, a memory map, a stream (``responses``), draws from a truth (``draw``, ``direct``), a fit's data resampled
(``resample``).  ``truth`` says what parameters responses are drawn from.
"""

from jaxmm.sources.responses import Responses as Responses
from jaxmm.sources.responses import Varying as Varying
