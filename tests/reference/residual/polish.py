"""nlme.json -> fits.json: each fit of nlme brought to the maximum of its likelihood, by dense algebra in NumPy alone.

    Rscript data.R && Rscript nlme.R && python polish.py        in this folder

nlme stops within about 1e-8 of the maximum mostly, sometimes 1e-4 below it. ``loglik``, ``fixef``, ``se`` and the
parameters are those at the maximum, where the score in units of the parameters' errors is below 1e-7; ``nlme`` keeps
nlme's own log-likelihood and how far its coefficients were off. ``se`` is from (X'V⁻¹X)⁻¹. The restricted likelihood,
lme4's, nlme's and SAS's, is -½((n - p) log 2π + log|V| + log|X'V⁻¹X| + r'V⁻¹r).

A model is y, X and blocks of V(ψ) = Z D Z' + S R S, with ψ natural parameters. Blocks of one size are stacked, rows
(m, t), V (m, t, t). Everything works on complex ψ: first derivatives by a complex step are exact to rounding.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
FACTORS = {"Rat", "Diet", "Mare", "Subject", "QB", "Lot", "Wafer", "Source", "Site", "Sex"}
OF_TIMES = ("us", "cs", "hetar1", "diag")  # a standard deviation for each time
STEP, DIFFERENCE = 1e-30, 2e-3


# ---------------------------------------------------------------- tables and designs, written out
def table(name: str) -> pd.DataFrame:
    frame = pd.read_csv(HERE / "data" / f"{name.removesuffix('Gaps')}.csv")
    frame = frame.astype({column: "category" for column in FACTORS & set(frame)})
    if name == "Ovary":
        turn = 2 * np.pi * frame["Time"]
        frame = frame.assign(s=np.sin(turn), c=np.cos(turn))
    if name == "BodyWeightGaps":  # whole weeks, of which every seventh row is away
        frame = frame[frame["Time"] != 44].assign(Week=lambda f: (f["Time"] + 6) / 7)
        frame = frame[np.arange(1, len(frame) + 1) % 7 != 0].reset_index(drop=True)
    return frame


def column(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A number, its logarithm or a power as one column; a factor as its treatment contrasts."""
    if power := re.fullmatch(r"I\((\w+)\^(\d)\)", name):
        return frame[[power[1]]].to_numpy(float) ** int(power[2])
    if name.startswith("log("):
        return np.log(frame[[name[4:-1]]].to_numpy(float))
    if isinstance(frame[name].dtype, pd.CategoricalDtype):
        return np.eye(len(frame[name].cat.categories))[frame[name].cat.codes][:, 1:]
    return frame[[name]].to_numpy(float)


def terms(text: str) -> list[str]:
    """At the pluses that stand in no parentheses."""
    depth = np.cumsum([(c == "(") - (c == ")") for c in text])
    cuts = [k for k, c in enumerate(text) if c == "+" and depth[k] == 0]
    return [text[i:j].strip() for i, j in zip([0, *(k + 1 for k in cuts)], [*cuts, len(text)], strict=True)]


def design(frame: pd.DataFrame, right: str) -> np.ndarray:
    """Of ``a``, ``a * b`` and ``(a + b) * c``: main effects, then interactions, the first factor the fastest."""
    main, pairs = [], []
    for term in terms(right):
        left, star, last = term.rpartition(" * ")
        first = terms(left[1:-1] if left.startswith("(") else left) if star else []
        main += [name for name in [*first, last] if name != "1"]
        pairs += [(name, last) for name in first]
    blocks = [np.ones((len(frame), 1)), *(column(frame, name) for name in main)]
    for a, b in pairs:
        A, B = column(frame, a), column(frame, b)
        blocks.append(np.einsum("na,nb->nba", A, B).reshape(len(frame), -1))
    return np.concatenate(blocks, 1)


# ---------------------------------------------------------------- V
def stacks(codes: np.ndarray) -> list[np.ndarray]:
    """Rows of the blocks, (m, t) for each size t; within a block in the order of the data."""
    rows = [np.flatnonzero(codes == k) for k in range(codes.max() + 1)]
    return [np.stack([r for r in rows if len(r) == t]) for t in sorted({len(r) for r in rows})]


def places(frame: pd.DataFrame, time: str, group: str) -> np.ndarray:
    """Whole numbers: the order of the rows, whole weeks, or the ranks of other times."""
    if time == "1":
        return frame.groupby(group, observed=True).cumcount().to_numpy()
    values = frame[time].to_numpy()
    return values.astype(int) if time == "Week" else np.unique(values, return_inverse=True)[1]


def correlations(structure, r, frame, time, group, rows):
    """R of each block. nlme has those of ``us`` by columns, of ``ou`` that at a distance of 1, of others the range."""
    if structure in (None, "diag"):
        return [np.broadcast_to(np.eye(len(b[0])), (*b.shape, b.shape[1])) for b in rows]
    if structure in ("exp", "gau", "ou"):
        at = frame[time].to_numpy(float)
        decay = {
            "exp": lambda d: np.exp(-d / r[0]),
            "gau": lambda d: np.exp(-((d / r[0]) ** 2)),
            "ou": lambda d: r[0] ** d,
        }
        return [decay[structure](np.abs(at[b][:, :, None] - at[b][:, None])) for b in rows]
    t = places(frame, time, group)
    lag = np.abs(np.subtract.outer(np.arange(t.max() + 1), np.arange(t.max() + 1)))
    R = np.eye(len(lag), dtype=np.result_type(r, float))
    if structure == "us":
        j, i = np.triu_indices(len(lag), 1)
        R[i, j] = R[j, i] = r
    else:
        R = np.where(lag == 0, 1.0, r[0] ** (lag if structure.endswith("ar1") else np.ones_like(lag)))
    return [R[t[b][:, :, None], t[b][:, None, :]] for b in rows]


def effects(case: dict, frame: pd.DataFrame):
    """(group, columns of Z, whether independent) of each bar, outermost first."""
    found = []
    for left, bar, group in re.findall(r"\((\w+) (\|\|?) ([\w /]+)\)", case["formula"].partition(case["fixed"])[2]):
        Z = np.ones((len(frame), 1))
        Z = Z if left == "1" else np.concatenate([Z, column(frame, left)], 1)
        found += [(name, Z, bar == "||") for name in group.split(" / ")]
    return found


def free(q: int, independent: bool):
    """Where a Cholesky factor has its parameters."""
    return np.diag_indices(q) if independent else np.tril_indices(q)


class Dense:
    """A case: ``psi`` is log_phi or sd, correlation, then the Cholesky factor of each covariance of effects."""

    def __init__(self, case: dict):
        self.frame = frame = table(case["data"])
        left, right = case["fixed"].split(" ~ ")
        self.y, self.X, self.reml = frame[left].to_numpy(float), design(frame, right), case["method"] == "REML"
        bar = re.fullmatch(r"(\w+)\((.*) \| (\w+)\)", case["residual"] or "")
        self.structure, self.time, self.group = bar.groups() if bar else (None, None, None)
        self.bars = effects(case, frame)
        outer = self.group or (self.bars[0][0] if self.bars else None)
        self.rows = stacks(frame[outer].cat.codes.to_numpy() if outer else np.arange(len(frame)))
        self.D = None if self.structure in OF_TIMES else design(frame, (case["dispersion"] or "~ 1").removeprefix("~ "))
        roots = [np.linalg.cholesky(np.array(case["random"][g])) for g, _, _ in self.bars]
        parts = [list((case["log_phi"] if self.D is not None else case["sd"]).values()), case.get("correlation", [])]
        parts += [L[free(len(L), single)] for L, (_, _, single) in zip(roots, self.bars, strict=True)]
        self.start, self.ends = np.concatenate(parts).astype(float), np.cumsum([len(part) for part in parts])

    def V(self, psi) -> list[np.ndarray]:
        first, second, *rest = np.split(psi, self.ends[:-1])
        s = first[places(self.frame, self.time, self.group)] if self.D is None else np.exp(0.5 * self.D @ first)
        R = correlations(self.structure, second, self.frame, self.time, self.group, self.rows)
        out = [s[r][:, :, None] * v * s[r][:, None, :] for v, r in zip(R, self.rows, strict=True)]
        for k, D in enumerate(self.random(rest)):
            name, Z, _ = self.bars[k]
            inner = self.frame[name].cat.codes.to_numpy() if k else np.zeros(len(Z), int)
            same = [inner[r][:, :, None] == inner[r][:, None, :] for r in self.rows]
            out = [v + m * (Z[r] @ D @ Z[r].swapaxes(1, 2)) for v, m, r in zip(out, same, self.rows, strict=True)]
        return out

    def random(self, parts) -> list[np.ndarray]:
        found = []
        for values, (_, Z, single) in zip(parts, self.bars, strict=True):
            L = np.zeros((Z.shape[1], Z.shape[1]), values.dtype)
            L[free(len(L), single)] = values
            found.append(L @ L.T)
        return found

    def moments(self, psi):
        """log|V|, and [X y]'V⁻¹[X y]."""
        logdet, M = 0.0, 0.0
        for V, r in zip(self.V(psi), self.rows, strict=True):
            Xy = np.concatenate([self.X[r], self.y[r][:, :, None]], 2)
            M = M + np.einsum("mta,mtb->ab", Xy, np.linalg.solve(V, Xy))
            logdet = logdet + np.sum(log_det(V))
        return logdet, np.asarray(M)

    def loglik(self, psi):
        logdet, M = self.moments(psi)
        n, p = self.X.shape
        df, restricted = (n - p, log_det(M[:p, :p])) if self.reml else (n, 0.0)
        rest = M[p, p] - M[:p, p] @ np.linalg.solve(M[:p, :p], M[:p, p])
        return -0.5 * (df * np.log(2 * np.pi) + logdet + restricted + rest)

    def score(self, psi):
        return np.stack([np.imag(self.loglik(psi + s)) / STEP for s in 1j * STEP * np.eye(len(psi))])

    def hessian(self, psi):
        """Central differences of the score, of fourth order."""
        H = []
        for k, h in enumerate(np.diag(DIFFERENCE * np.maximum(np.abs(psi), 0.1))):
            near, far = (self.score(psi + c * h) - self.score(psi - c * h) for c in (1, 2))
            H.append((8 * near - far) / (12 * h[k]))
        return (np.stack(H) + np.stack(H).T) / 2

    def maximise(self, psi, tolerance: float = 1e-7, most: int = 200):
        """ψ̂ by Newton's method, with the step halved until the likelihood rises."""
        value = self.loglik(psi)
        for _ in range(most):
            g, (w, U) = self.score(psi), np.linalg.eigh(self.hessian(psi))
            step = U @ ((U.T @ g) / np.maximum(np.abs(w), 1e-8 * np.max(np.abs(w))))
            if g @ step < tolerance**2:
                assert np.all(w < 0), "a saddle"
                return psi
            for _ in range(60):
                with np.errstate(all="ignore"):
                    new = self.loglik(psi + step)
                    inside = all(np.all(np.linalg.eigvalsh(v) > 0) for v in self.V(psi + step))
                if inside and new >= value - 1e-10:
                    break
                step = step / 2
            psi, value = psi + step, new
        raise AssertionError(f"no maximum: score {self.score(psi)}")


def log_det(A):
    sign, value = np.linalg.slogdet(A)
    return value + 1j * np.angle(sign) if np.iscomplexobj(A) else value


# ---------------------------------------------------------------- nlme's fits
def digits(value):
    if isinstance(value, dict):
        return {key: digits(v) for key, v in value.items()}
    if isinstance(value, list):
        return [digits(v) for v in value]
    return float(f"{value:.13g}") if isinstance(value, float) else value


def polished(case: dict) -> dict:
    model = Dense(case)
    at_nlme = float(model.loglik(model.start))
    assert abs(at_nlme - case["loglik"]) < 1e-7 * abs(case["loglik"]), (case["id"], at_nlme, case["loglik"])
    psi = model.maximise(model.start)
    loglik, M = float(model.loglik(psi)), model.moments(psi)[1]
    p = model.X.shape[1]
    beta, se = np.linalg.solve(M[:p, :p], M[:p, p]), np.sqrt(np.diag(np.linalg.inv(M[:p, :p])))
    out = {k: case[k] for k in ("id", "data", "formula", "residual", "dispersion", "method")}
    out |= {"loglik": loglik, "fixef": dict(zip(case["fixef"], beta.tolist(), strict=True)), "se": se.tolist()}
    first, second, *rest = np.split(psi, model.ends[:-1])
    key = "sd" if "sd" in case else "log_phi"
    out[key] = dict(zip(case[key], first.tolist(), strict=True))
    out |= {"correlation": second.tolist()} if len(second) else {}
    if rest:
        out["random"] = {name: D.tolist() for (name, _, _), D in zip(model.bars, model.random(rest), strict=True)}
    moved = float(np.max(np.abs(beta - np.array(list(case["fixef"].values()))) / se))
    out["nlme"] = {"loglik": case["loglik"], "moved_se": moved}
    print(f"{case['id']:36s} {loglik:16.9f}  nlme short by {loglik - case['loglik']:9.2e}, moved {moved:8.1e} SE")
    assert loglik - case["loglik"] < 1e-4
    return digits(out)


def main() -> None:
    given = json.loads((HERE / "nlme.json").read_text())
    fits = ",\n".join(json.dumps(polished(case)) for case in given["fits"])
    (HERE / "fits.json").write_text(f'{{"made": "{given["made"]}, polished", "fits": [\n{fits}\n]}}\n')


if __name__ == "__main__":
    main()
