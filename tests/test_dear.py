"""The rule by which tests are dear."""

from choose_dear import dear, rare


def test_the_rule():
    seconds = {"a.py::one": 4.0, "a.py::long": 7.0, "a.py::many[x]": 0.5, "a.py::many[y]": 1.0, "a.py::many[z]": 9.0}
    assert dear(seconds) == ["a.py::long", "a.py::many[z]"]
    assert rare({"a.py::many[x]": 2.7, "a.py::many[y]": 0.5, "a.py::many[z]": 2.0, "a.py::long": 9.0}) == {
        "a.py::many[x]"
    }
