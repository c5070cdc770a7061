"""The balanced tables of jaxmm.datasets as grids, the way books print them -> their files, a measurement a line.

    python tests/reference/grids.py        writes jaxmm/datasets/*.csv; tests/test_datasets.py compares them

A grid has a line for each unit, what tells units apart first, then its measurements: in the order of `columns`, or as
repeats where it is None. The numbers are those of the publications that `datasets.describe` names, as statistical
software has them; they agree with lme4's `Dyestuff`, `Dyestuff2`, `Penicillin`, `Pastes` and nlme's `Machines`, `Oats`.
The printed pages were not at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parents[2] / "jaxmm" / "datasets"


class Grid(NamedTuple):
    measured: str
    units: tuple[str, ...]
    columns: tuple[str, tuple[str, ...]] | None
    lines: str


GRIDS = {
    "dyestuff": Grid(
        "Yield",
        ("Batch",),
        None,
        """
A | 1545 1440 1440 1520 1580
B | 1540 1555 1490 1560 1495
C | 1595 1550 1605 1510 1560
D | 1445 1440 1595 1465 1545
E | 1595 1630 1515 1635 1625
F | 1520 1455 1450 1480 1445
""",
    ),
    "dyestuff2": Grid(
        "Yield",
        ("Batch",),
        None,
        """
A | 7.298 3.846 2.434 9.566 7.99
B | 5.22 6.556 0.608 11.788 -0.892
C | 0.11 10.386 13.434 5.51 8.166
D | 2.212 4.852 7.092 9.288 4.98
E | 0.282 9.014 4.458 9.446 7.198
F | 1.722 4.782 8.106 0.758 3.758
""",
    ),
    "penicillin": Grid(
        "diameter",
        ("plate",),
        ("sample", ("A", "B", "C", "D", "E", "F")),
        """
a | 27 23 26 23 23 21
b | 27 23 26 23 23 21
c | 25 21 25 24 24 20
d | 26 23 25 23 23 20
e | 25 22 26 22 23 20
f | 24 22 25 23 22 19
g | 24 20 23 21 22 19
h | 26 22 26 24 24 21
i | 24 21 24 22 22 20
j | 24 21 24 23 22 19
k | 26 23 26 24 24 21
l | 25 22 26 24 24 20
m | 26 24 26 24 25 22
n | 26 23 26 23 23 20
o | 26 23 25 24 24 22
p | 25 22 25 23 23 20
q | 25 21 24 23 23 20
r | 25 22 24 23 23 19
s | 24 21 23 21 21 19
t | 26 23 26 24 24 21
u | 25 21 24 22 22 18
v | 25 22 25 22 22 20
w | 24 21 24 22 24 19
x | 24 21 24 22 21 18
""",
    ),
    "pastes": Grid(
        "strength",
        ("batch", "cask"),
        None,
        """
A a | 62.8 62.6
A b | 60.1 62.3
A c | 62.7 63.1
B a | 60 61.4
B b | 57.5 56.9
B c | 61.1 58.9
C a | 58.7 57.5
C b | 63.9 63.1
C c | 65.4 63.7
D a | 57.1 56.4
D b | 56.9 58.6
D c | 64.7 64.5
E a | 55.1 55.1
E b | 54.7 54.2
E c | 58.8 57.5
F a | 63.4 64.9
F b | 59.3 58.1
F c | 60.5 60
G a | 62.5 62.6
G b | 61 58.7
G c | 56.9 57.7
H a | 59.2 59.4
H b | 65.2 66
H c | 64.8 64.1
I a | 54.8 54.8
I b | 64 64
I c | 57.7 56.8
J a | 58.3 59.3
J b | 59.2 59.2
J c | 58.9 56.6
""",
    ),
    "machines": Grid(
        "score",
        ("Machine", "Worker"),
        None,
        """
A 1 | 52 52.8 53.1
A 2 | 51.8 52.8 53.1
A 3 | 60 60.2 58.4
A 4 | 51.1 52.3 50.3
A 5 | 50.9 51.8 51.4
A 6 | 46.4 44.8 49.2
B 1 | 62.1 62.6 64
B 2 | 59.7 60 59
B 3 | 68.6 65.8 69.7
B 4 | 63.2 62.8 62.2
B 5 | 64.8 65 65.4
B 6 | 43.7 44.2 43
C 1 | 67.5 67.2 66.9
C 2 | 61.5 61.7 62.3
C 3 | 70.8 70.6 71
C 4 | 64.1 66.2 64
C 5 | 72.1 72 71.1
C 6 | 62 61.4 60.5
""",
    ),
    "oats": Grid(
        "yield",
        ("Block", "Variety"),
        ("nitro", ("0", "0.2", "0.4", "0.6")),
        """
I Victory | 111 130 157 174
I Golden_Rain | 117 114 161 141
I Marvellous | 105 140 118 156
II Victory | 61 91 97 100
II Golden_Rain | 70 108 126 149
II Marvellous | 96 124 121 144
III Victory | 68 64 112 86
III Golden_Rain | 60 102 89 96
III Marvellous | 89 129 132 124
IV Victory | 74 89 81 122
IV Golden_Rain | 64 103 132 133
IV Marvellous | 70 89 104 117
V Victory | 62 90 100 116
V Golden_Rain | 80 82 94 126
V Marvellous | 63 70 109 99
VI Victory | 53 74 118 113
VI Golden_Rain | 89 82 86 104
VI Marvellous | 97 99 119 121
""",
    ),
}


def text(name: str) -> str:
    """The file of a grid: the measurement first, then what it belongs to, from the finest on."""
    grid = GRIDS[name]
    within = [grid.columns[0]] if grid.columns else []
    out = [",".join([grid.measured, *within, *reversed(grid.units)])]
    for line in grid.lines.strip().splitlines():
        unit, values = (part.split() for part in line.split("|"))
        labels = grid.columns[1] if grid.columns else [None] * len(values)
        for value, label in zip(values, labels, strict=True):
            own = [] if label is None else [label]
            out.append(",".join([value, *own, *(u.replace("_", " ") for u in reversed(unit))]))
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    for name in GRIDS:
        (FOLDER / f"{name}.csv").write_text(text(name), encoding="utf-8")
