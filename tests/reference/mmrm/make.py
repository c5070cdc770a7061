"""The FEV example of the R package mmrm, and what SAS's PROC MIXED printed for it, from a clone of openpharma/mmrm.

    python make.py path/to/mmrm/.git        writes sas.json here, and with Rscript fev.csv

Data and listings are those of github.com/openpharma/mmrm (Apache License 2.0, copyright Boehringer Ingelheim, Gilead
Sciences, F. Hoffmann-La Roche, Merck Sharp & Dohme, AstraZeneca, inferential.biostatistics), at the commit noted in
sas.json; ``fev_data`` is artificial, as its help page says.  Nothing else of the package is used.

Of each listing: ``neg2`` -2 (restricted) log-likelihood at the end of the iterations, to eight decimals; ``covariance``
[parameter, group, estimate] and ``fixed`` [effect, estimate, se, df], as printed, to four decimals or six digits.  Of
``ddfm_covtype`` ``difference`` TRT - PBO: [estimate, se, df] in full.
"""

import csv
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
GIT = sys.argv[1]

# listing: (structure, formula of the mean, weights, by)
FULL = "FEV1 ~ RACE + SEX + ARMCD * AVISIT"
ONE, ARM = "FEV1 ~ 1", "FEV1 ~ ARMCD"
NAMES = {
    "us": "us", "adh": "ante", "ar1": "ar1", "ar1h": "hetar1", "arh1": "hetar1", "cs": "homcs", "csh": "cs",
    "toep": "homtoep", "toeph": "toep",
}  # fmt: skip
SPACE = {"sp_exp2": "exp", "sp_gau2": "gau"}


def shown(path: str) -> bytes:
    return subprocess.run(["git", "--git-dir", GIT, "show", f"HEAD:{path}"], check=True, capture_output=True).stdout


def cases():
    """(listing, residual, formula, weights)."""
    for method in ("ml", "reml"):
        for name in ("adh", "ar1", "ar1h", "cs", "csh", "toeph"):
            yield f"design/SAS/sas_{name}_{method}.txt", f"{NAMES[name]}(AVISIT | USUBJID)", ONE, None
        for name in ("adh", "ar1", "ar1h", "cs", "csh", "toeph"):
            yield f"design/SAS/sas_group_{name}_{method}.txt", f"{NAMES[name]}(AVISIT | USUBJID, by=ARMCD)", ONE, None
        for name in ("sp_exp2", "sp_gau2"):
            yield f"design/SAS/sas_{name}_{method}.txt", f"{SPACE[name]}(pos(VISITN, VISITN2) | USUBJID)", ONE, None
    yield "design/SAS/sas_log.txt", "us(AVISIT | USUBJID)", FULL, None
    yield "design/SAS/sas_log_reml.txt", "us(AVISIT | USUBJID)", FULL, None
    yield "design/SAS/sas_weighted.txt", "us(AVISIT | USUBJID)", FULL, "WEIGHT"
    for kind in ("kr", "kr1"):
        for name in ("adh", "ar1", "arh1", "cs", "csh", "toep", "toeph", "us"):
            yield f"design/ddfm_covtype/{kind}_{name}.txt", f"{NAMES[name]}(AVISIT | USUBJID)", ARM, None
        yield f"design/ddfm_covtype/{kind}_spexp.txt", "exp(pos(VISITN, VISITN2) | USUBJID)", ARM, None


def read(listing: str) -> dict:
    text = listing.replace("\r", "")
    lines = text.split("\n")
    history = [re.fullmatch(r"\s+(\d+)\s+\d+\s+(-?\d+\.\d{8})(?:\s+(-?\d+\.\d{8}))?\s*", x) for x in lines]
    found = {int(m[1]): float(m[2]) for m in history if m}
    method = re.search(r"Estimation Method +(\w+)", text)
    out = {"method": method[1] if method else None, "neg2": found[max(found)]}
    out["covariance"] = covariance(lines)
    out["fixed"] = fixed(lines)
    ddf = re.search(r"Degrees of Freedom Method +(\S+)", text)
    errors = re.search(r"Fixed Effects SE Method +(\S+)", text)
    return out | {"ddf": ddf[1] if ddf else None, "se": errors[1] if errors else None}


def part(lines: list[str], title: str, ends: tuple[str, ...]) -> list[str]:
    at = next((k for k, x in enumerate(lines) if title in x), None)
    if at is None:
        return []
    rest = []
    for x in lines[at + 1 :]:
        if any(e in x for e in ends):
            break
        rest.append(x)
    return rest


def covariance(lines: list[str]) -> list:
    rows = []
    for x in part(lines, "Covariance Parameter Estimates", ("Fit Statistics",)):
        m = re.match(
            r"\s+(\S+(?: \S+)?)\s{2,}(?:USUBJID\s+)?(?:ARMCD (PBO|TRT)\s+)?(-?\d+\.?\d*(?:E[+-]\d+)?)\s", x + " "
        )
        if m and not m[1].startswith(("Cov", "The")):
            rows.append([m[1], m[2], float(m[3])])
    return rows


def fixed(lines: list[str]) -> list:
    rows = []
    for x in part(lines, "Solution for Fixed Effects", ("Type 3 Tests", "Least Squares")):
        m = re.match(r"\s*(\S.*?)\s{2,}(-?\d+\.\d+)\s+(\d+\.\d+)\s+(\d+\.?\d*)\s+-?\d+\.\d+\s+\S+\s*$", x)
        if m and not m[1][0].isdigit():  # one listing repeats its row from a data set
            rows.append([" ".join(m[1].split()), float(m[2]), float(m[3]), float(m[4])])
    return rows


def difference(path: str) -> list:
    row = next(csv.DictReader(io.StringIO(shown(path.replace(".txt", ".csv")).decode())))
    return [float(row[k]) for k in ("Estimate", "StdErr", "DF")]


def data() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rda = Path(folder) / "fev.rda"
        rda.write_bytes(shown("data/fev_data.rda"))
        code = f"load('{rda}'); options(digits = 17); d <- as.data.frame(fev_data); " \
               f"write.csv(d, '{HERE / 'fev.csv'}', row.names = FALSE, quote = FALSE, na = '')"  # fmt: skip
        subprocess.run(["Rscript", "-e", code], check=True)


def main() -> None:
    data()
    commit = subprocess.run(["git", "--git-dir", GIT, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    out = []
    for path, residual, formula, weights in cases():
        own = {"listing": path, "formula": formula, "residual": residual, "weights": weights} | read(
            shown(path).decode()
        )
        if "ddfm" in path:
            own["difference"] = difference(path)
        out.append(own)
    note = "numbers of SAS PROC MIXED, from the listings of openpharma/mmrm (Apache License 2.0)"
    text = ",\n".join(json.dumps(x) for x in out)
    (HERE / "sas.json").write_text(
        f'{{"source": "{note}", "commit": "{commit.stdout.strip()}", "cases": [\n{text}\n]}}\n'
    )


if __name__ == "__main__":
    main()
