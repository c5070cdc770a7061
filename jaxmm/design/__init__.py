"""A formula and a table, or arrays, -> ``Design``: y, X, per bar Z and codes, with their names.

    text --formula--> Terms --building.build--> Design      columns, inputs, modelmatrix, grouping, predictor, ..
    arrays --from_arrays--> Design                          checks: what a model needs beyond it

Strings and tables end here.
"""

from jaxmm.design.building import build as build
from jaxmm.design.columns import DataError as DataError
from jaxmm.design.design import Design as Design
from jaxmm.design.design import NewData as NewData
from jaxmm.design.predictor import Factor as Factor
from jaxmm.design.predictor import RandomTerm as RandomTerm
