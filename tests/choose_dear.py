"""Which tests are dear: adds to ``dear.txt`` from the durations of a whole run with nothing compiled before.

    python -m pytest -m "not slow" --durations=0 -vv > log && python tests/choose_dear.py log

Of each test one case stays in the default run, the cheapest, and others as long as they take ``ALLOWED`` seconds
together; a test of one case stays if it takes no more than ``SINGLE``.  What other tests need too is then paid for by
the first that stays: a second run shows it, and its tests go to the list by hand.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ALLOWED, SINGLE, CHEAPEST = 2.0, 5.0, 10.0  # seconds on a busy machine
LIST = Path(__file__).with_name("dear.txt")


def durations(log: str) -> dict[str, float]:
    """Test -> seconds, with what it was set up for."""
    found: dict[str, float] = defaultdict(float)
    for line in log.splitlines():
        if match := re.match(r"\s*([\d.]+)s (?:call|setup|teardown)\s+(?:tests/)?(\S+?::\S.*)", line):
            found[match[2]] += float(match[1])
    return found


def dear(seconds: dict[str, float]) -> list[str]:
    cases = defaultdict(list)
    for test, time in seconds.items():
        cases[test.split("[")[0]].append((time, test))
    out: list[str] = []
    for function, own in cases.items():
        own.sort()
        if own[0][1] == function:
            stays = own[0][0] <= SINGLE
        else:
            stays = own[0][0] <= CHEAPEST
        spent = own[0][0]
        out += [] if stays else [own[0][1]]
        for time, test in own[1:]:
            if spent + time <= ALLOWED:
                spent += time
            else:
                out.append(test)
    return sorted(out)


if __name__ == "__main__":
    listed = set(LIST.read_text().splitlines())
    LIST.write_text("\n".join(sorted(listed.union(dear(durations(Path(sys.argv[1]).read_text()))))) + "\n")
