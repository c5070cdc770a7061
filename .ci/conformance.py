"""Run ../shared/conformance.py; fails on any miss but those in which the reference itself is off.

python .ci/conformance.py lmm glmm residual extended

Kinds run side by side, what they print comes one after the other.
"""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# fit -> what misses, and how it is known to be the reference's: the page of validation tells the same
KNOWN = json.loads((Path(__file__).parents[1] / "tests" / "reference" / "known_differences.json").read_text())


def misses(kind: str) -> tuple[str, dict[str, set[str]]]:
    """What was printed, and fit -> the first words of what missed."""
    command = [sys.executable, "../shared/conformance.py", "--kind", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found: dict[str, set[str]] = {}
    fit = ""
    for line in done.stdout.splitlines():
        if match := re.match(r"(ok|MISS)\s+\w+\s+(\S+)", line):
            fit = match[2]
            if match[1] == "MISS":
                found[fit] = set()
        elif match := re.match(r"\s+miss (\S+)", line):
            found[fit].add(match[1])
    if done.returncode and not found:
        sys.exit(f"conformance.py did not run:\n{done.stdout}")
    return done.stdout, found


if __name__ == "__main__":
    new = {}
    with ThreadPoolExecutor() as pool:
        for printed, found in pool.map(misses, sys.argv[1:]):
            print(printed, end="", flush=True)
            new |= {fit: more for fit, what in found.items() if (more := what - KNOWN.get(fit, {}).keys())}
    if new:
        sys.exit(f"misses beyond the references' own: {new}")
    print("no miss beyond the references' own")
