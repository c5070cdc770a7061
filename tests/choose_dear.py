"""Which tests are dear: adds to ``dear.txt`` from the durations of a whole run with nothing compiled before.

    python -m pytest -m "not slow" --durations=0 -vv > log && python tests/choose_dear.py log

Those of ``rare.txt`` are run with the slow ones: cases of a dear test beyond the ``RARE`` seconds of its cheapest.

Of each test one case stays in the default run, the cheapest, and others as long as they take ``ALLOWED`` seconds
together; a test of one case stays if it takes no more than ``SINGLE``.  What other tests need too is then paid for by
the first that stays: a second run shows it, and its tests go to the list by hand.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ALLOWED, SINGLE, CHEAPEST = 1.5, 4.0, 8.0  # seconds on a busy machine
RARE = 3.0
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


def rare(seconds: dict[str, float]) -> set[str]:
    """Of dear tests the cases beyond ``RARE`` seconds together; one stays."""
    spent: dict[str, float] = defaultdict(float)
    out = set()
    for test in sorted(seconds, key=lambda t: seconds[t]):
        function = test.split("[")[0]
        if spent[function] and spent[function] + seconds[test] > RARE:
            out.add(test)
        else:
            spent[function] += seconds[test]
    return out


if __name__ == "__main__":
    seconds = durations(Path(sys.argv[1]).read_text())
    listed = {name: set(LIST.with_name(name).read_text().splitlines()) for name in ("dear.txt", "rare.txt")}
    further = rare({test: seconds[test] for test in dear(seconds)})
    listed["dear.txt"] |= set(dear(seconds)) - further
    listed["rare.txt"] |= further
    for name, tests in listed.items():
        LIST.with_name(name).write_text("\n".join(sorted(tests)) + "\n")
