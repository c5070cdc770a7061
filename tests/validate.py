"""What stands behind the page of validation: conformance with other programs, and simulations → docs/validation.json.

    python tests/validate.py conformance ../shared/conformance.py        a few minutes
    python -m pytest -m slow --junitxml=slow.xml tests/test_ddf_validity.py ...
    python tests/validate.py simulations slow.xml ...

Each command replaces its own part of the file: all reference fits, or those simulations that the files hold; every part
says with which versions, on which machine and when it was made.  ``docs/validation.md`` is written from it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "validation.json"
KNOWN = json.loads((HERE / "reference" / "known_differences.json").read_text())


def where() -> dict:
    """Versions and machine."""
    names = ("jaxmm", "jax", "jaxlib", "numpy", "scipy", "pandas")
    sys.path.insert(0, str(HERE.parent))
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            versions[name] = importlib.import_module(name).__version__
    machine = {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count()}
    return {"date": datetime.date.today().isoformat(), "versions": versions, "machine": machine}


# ---------------------------------------------------------------- other programs
def compared(other, kind: str, ref: dict, folder: Path) -> dict:
    """One reference fit: every comparison with its deviation and tolerance."""
    import jaxmm as mm

    report = other.Report(ref["id"], False)
    sections = {"core": lambda fit, data: other.compare_core(fit, ref, other.expectation(ref), data, report)}
    if kind == "lmm":
        sections["inference"] = lambda fit, _: other.compare_inference(fit, ref, report)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = other.load_data(folder / "data", ref["data"])
        fit = other.fit_reference(mm, ref, data)
    for section, compare in sections.items():
        report.rows.clear()
        try:
            compare(fit, data)
        except TypeError as problem:  # the reference has no number there
            report.rows.append(("comparison", False, None, 0.0, str(problem)))
        for what, ok, error, tolerance, note in report.rows:
            deviation = None if error is None else float(error)
            rows.append(
                {"section": section, "what": what, "ok": bool(ok), "deviation": deviation, "tolerance": tolerance}
            )
            if note and not ok:
                rows[-1]["note"] = note
    keys = ("id", "data", "formula", "family", "link", "method", "package")
    return {**{key: ref[key] for key in keys}, "kind": kind, "comparisons": rows}


def conformance(script: Path) -> dict:
    """All reference fits of models that there are; of the others their number."""
    spec = importlib.util.spec_from_file_location("conformance", script)
    assert spec and spec.loader
    sys.path.insert(0, str(HERE.parent))
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    fits, absent = [], []
    for path in sorted((script.parent / "reference" / "fits").glob("*.json")):
        ref = json.loads(path.read_text())
        kind = other.kind(ref)
        if kind == "skip":
            continue
        try:
            fits.append(compared(other, kind, ref, script.parent / "reference"))
        except (ValueError, TypeError, NotImplementedError) as problem:  # a model that is not there yet says so
            absent.append(
                {"id": ref["id"], "formula": ref["formula"], "kind": kind, "why": str(problem).splitlines()[0]}
            )
        print(ref["id"], flush=True)
    for fit in fits:
        for row in fit["comparisons"]:
            reason = KNOWN.get(fit["id"], {}).get(row["what"].split()[0])
            if not row["ok"] and reason:
                row["reason"] = reason
    return {**where(), "fits": fits, "absent": absent}


# ---------------------------------------------------------------- simulations
def simulations(files: list[Path], before: dict) -> dict:
    """The claims of these runs, in the place of the former ones of the same tests."""
    found: dict[str, list[dict]] = {}
    for file in files:
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            test = f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
            passed = case.find("failure") is None and case.find("error") is None and case.find("skipped") is None
            claims = [json.loads(p.get("value", "")) for p in case.iter("property") if p.get("name") == "claim"]
            if claims:
                about = {"test": test, "passed": passed, "seconds": float(case.get("time", "nan")), **where()}
                found[test] = [{**claim, **about} for claim in claims]
    kept = [claim for claim in before.get("claims", []) if claim["test"] not in found]
    claims = kept + [claim for claims in found.values() for claim in claims]
    return {"claims": sorted(claims, key=lambda c: (re.sub(r"\[.*", "", c["test"]), c["what"]))}


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    match sys.argv[1:]:
        case ["conformance", script]:
            results["conformance"] = conformance(Path(script).resolve())
        case ["simulations", *files] if files:
            results["simulations"] = simulations([Path(f) for f in files], results.get("simulations", {}))
        case _:
            sys.exit(__doc__)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
