"""What things cost, where one way of computing takes over from another: measured, and the first to look at on another
machine.  None of these changes a result beyond rounding.

Measured on 2 cores of a server CPU, jaxlib 0.10; ``benchmarks/NOTES.md`` has the runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Price(NamedTuple):
    """Seconds that searches cost.  Of a ``single`` one, ``least`` whatever its size and ``single`` for each row and
    parameter; of one ``lane`` for each of them, ``far`` where they are more than ``CACHED``; ``compiled``, what may be
    spent to save compiling the programs of lanes, which takes half as long again."""

    compiled: float
    least: float
    single: float
    lane: float
    far: float


# ---------------------------------------------------------------- programs
SMALL_PROGRAM = (
    4096  # numbers in a row's array below which a program runs for less time than its code takes to optimise
)
CALLED_ONCE = 16  # times as large may be what is computed once, as it takes 5 times as long without
CALLED_SELDOM = 4  # the same of a Hessian of whitened rows, taken some ten times: its program is ready in a sixth of
# the time, and runs two to three times as long, 1 to 3 ms more
PROGRAMS_KEPT = 64  # a fit needs 1 to 5, a batch 3 to 6, and each takes up to 30 MB and 400 maps
PROGRAMS_DROPPED = 16  # programs after which what they leave behind is collected: it takes 0.1 s
LONG_ROWS = 1 << 16  # numbers from which padding costs more than a program
SHORT_ROWS = 256  # numbers up to which all functions of rows share one program
APART, APART_ROWS = 256, 1 << 20  # generalised replicates, and rows of all of them together, up to which the fit's own
# program, one replicate after another, is done before one for all of them is compiled
UNROLLED_ROOT = 6  # the largest q whose Cholesky is written out entry by entry: the graph grows with q³
WIDE_BLOCK, FEW_BLOCKS = 12, 8  # sizes of blocks, and how many at most, that are multiplied as matrices
UNROLLED_PRODUCT = 128  # the longest inner axis of a product of blocks that is written out
UNROLLED_BLOCKS = 8  # the longest inner axis of products with blocks of errors that is written out: beyond it they
# compile for long
UNROLLED_SWEEP = 5  # parameters up to which a sweep of rotations is written out

# ---------------------------------------------------------------- rows and levels
CHUNK_ROWS = 1 << 18  # rows in flight on the host: a few of their columns fit the second-level cache
HELD_ROWS = 4096  # rows below which computing again is cheaper than keeping (above: 10 ms for 62 ms of half a million)
FEW_PIECES = 256  # pieces of rows, so many at least, for a long inner axis
PIECE_ROWS = 0.5  # what the scatter of one piece costs, in rows
SIMULATED_QUICKLY = 1 << 19  # numbers of a simulation in all, up to which its program is not worth optimising
SIMULATED_AT_ONCE = 2**14  # numbers in a block of replicates of one fit
PREDICTED_AT_ONCE = 2**14  # rows whose slopes by the parameters are held together
DRAWN_AT_ONCE = 2**18  # new responses of rows, some draws of each, in one call
COLUMNS_AT_ONCE = 1 << 22  # numbers in a block of columns of an inverse
ROUGH_LEVELS = 1000  # of each factor are looked at for an expected Hessian

# ---------------------------------------------------------------- dense parts
PAIR_NS, DENSE_NS = 6.0, 1 / 40  # a scattered pair of cells, a flop of a dense product
DEAR_PATTERNS = 10_000_000  # sums over patterns times parameters: beyond it a search learns its Hessian
PATTERN_HESSIAN = 8_000_000  # numbers in the derivatives of all patterns' C: beyond it a Hessian is autodiff's
PATTERN_SUMS = 20  # times as many sums of pairs of slots as rows have numbers: beyond it each evaluation takes the rows
CHOLESKY_LEAF = 96  # below it the library's Cholesky, which stays on one thread there
DEAR_REST = 300  # the order of the dense part from which on a Hessian is worth learning from gradients
DEAR_WORK = 500_000  # numbers in the largest coupling times parameters, likewise
HESSIAN_AT_ONCE = 2_000_000  # numbers times parameters up to which a Hessian's columns are computed together
POINTS_AT_ONCE = 32  # of profiles, evaluated together
NODES_AT_ONCE = 2_000_000  # rows times quadrature nodes evaluated together; beyond, node after node
MIXED_COLUMNS = 2000  # effects of factors that cross the subjects of correlated errors, at most: an evaluation takes
# seconds
GPU_REST = 1500  # a dense part from this order on is worth a trip to an accelerator; small fits never are

# ---------------------------------------------------------------- lanes
CLOSED_EFFECTS, CLOSED_COLUMNS, CLOSED_REML = 4, 12, 16  # q, p, and pq by REML, above which the closed form of a linear
# model is too long to compile
CLOSED_ENTRIES = 10  # of λ in it: with 16 it takes half a minute and 0.8 GB
COLLAPSED_SHARE = 0.7  # of the levels that must be left for a collapse of equal ones to be worth its sums
TABLE_PIECE = 4  # rows that the scatter of one piece costs, where lanes have rows of their own
TILE_ENTRIES, TILE_ROWS = (
    128,
    64,
)  # of a row in a matrix product: a hundred cost as much as two or three passes; and
# rows of a tile below which the call of a product is dearer than what it does
TABLE_EFFECTS = 4  # q above which the closed form of a generalised model is too long to compile
TABLE_FILL = 3  # times the rows, up to which levels of unequal size are filled up for it: by pieces a lane takes 4 to 6
# times as long
PATTERN_CELLS = 1 << 16  # numbers in the sums over patterns of a lane that misses rows of its own, at most
PATTERN_PARAMETERS = 24  # of errors up to which lanes are searched side by side: with 54 their steps take 30 times as
# long as a single fit
TABLE_PRODUCTS = 1 << 24  # numbers in the products of its columns, above which they take too much memory
LANE_TEMPORARIES, DENSE_TEMPORARIES = 4, 6  # arrays as large as a lane's statistics, and as its dense part, that an
# evaluation has at hand
POOL_STEPS = 2  # of the search in one call of a program
LINEAR, GENERALISED = Price(3.0, 5e-3, 1.3e-7, 4e-8, 8e-8), Price(6.0, 15e-3, 4e-7, 3e-7, 8e-7)  # a fit of sleepstudy's
# size takes 4 ms, a logistic one 13, nbinom2 28; one of 30,000 rows 21 and 42, a lane of it 11 and 85 to 120
CACHED = 1 << 16  # rows times parameters of a lane up to which 16 lanes fit the cache
SINGLY_AT_ONCE = 16  # of such lanes that are read and looked at together
BATCH_WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)  # lanes on a CPU: few widths, since each is compiled
WANTED_WIDTHS = (64, 512, 2048)  # of which the number of replicates chooses: another number seldom compiles anew
FILLINGS = 4  # times that a worker should fill its lanes, as the last ones search alone; from 64 lanes on
CACHE_BYTES = 1 << 22  # that the data of a batch should fit in
RESPONSE_BYTES = 1 << 24  # that its responses may take, once
POOLS_IN_PART = 32  # times the lanes, in a block: the last lanes of a block search alone
FIRST_PART_SECONDS, PART_SECONDS = 0.5, 5.0  # of work in a worker's first part and in its later ones: what a run
# that is cut off loses
PATTERN_WORK = 1 << 27  # lanes that lack the same rows, times rows, times columns of X and Z, from which their
# cross-products are made once: a lane then takes half the time, and its programs 5 to 10 s to compile
PATTERNS = 32  # of missing rows, at most, that are treated so: each has arrays of its own
SCANNED_BYTES = 1 << 31  # of responses that are looked through beforehand for values that are missing
ACCELERATOR_LANES = 1 << 16  # if the accelerator's memory allows
DATASETS_BLOCK = 1 << 12  # data sets of different sizes in a part: the lanes of each program run empty once in it
DATASETS_STACKED = 1000  # tables that are read and evaluated together
PERMUTED_AT_ONCE = 1 << 18  # lanes of a permutation test in one call of fit_many, which takes tens of milliseconds
# data sets of linear and of generalised models up to which programs are compiled in a fifth of the time, to run half
# and a fifth as fast
DATASETS_QUICK, DATASETS_QUICK_ROWS = 1 << 15, 1 << 10
