"""The list of dear tests: all of them exist, and each test has a case that is not dear."""

import subprocess
import sys
from pathlib import Path

from choose_dear import dear

TESTS = Path(__file__).parent


def test_the_rule():
    seconds = {"a.py::one": 5.0, "a.py::long": 7.0, "a.py::many[x]": 1.0, "a.py::many[y]": 1.5, "a.py::many[z]": 9.0}
    assert dear(seconds) == ["a.py::long", "a.py::many[z]"]


def test_dear_tests_exist():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-m", "", str(TESTS)]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, check=False).stdout.splitlines()
    there = {line.removeprefix("tests/") for line in listed if "::" in line}
    gone = sorted(set((TESTS / "dear.txt").read_text().split("\n")) - {""} - there)
    assert not gone, f"tests/dear.txt lists tests that are not there: {gone[:5]}; see tests/choose_dear.py"
