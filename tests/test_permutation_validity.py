"""Family-wise error of the permutation tests: of data sets without an effect 5 % have a response with p_fwe <= 0.05."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

LEVEL, RESPONSES = 0.05, 12


def simulated(case, rng):
    """The table, and responses (V, nobs) that share half of their variance, without an effect of x or of arm."""
    groups, repeats = case["groups"], 4
    g = np.repeat(np.arange(groups), repeats)
    arm = (np.arange(groups) < case.get("treated", groups // 2)).astype(float)
    table = pd.DataFrame({"g": g, "x": np.tile([0.0, 1.0], len(g) // 2), "arm": arm[g]})
    table["age"] = rng.normal(size=groups)[g]

    def drawn(*shape):
        z = rng.normal(size=(RESPONSES, *shape)) + rng.normal(size=(1, *shape))
        return z / 2**0.5

    spread = np.ones(groups)
    if case.get("unequal"):
        spread = np.exp(0.7 * rng.normal(size=groups)) * (1 + 2 * arm)
    Y = drawn(groups)[:, g] + drawn(len(g)) + 0.5 * table.age.to_numpy()
    if case.get("slopes"):
        Y += drawn(groups)[:, g] * table.x.to_numpy()
    return table, Y * spread[g]


def rejections(case, datasets, seed, n=200):
    """How many of the data sets have a finding."""
    rng, found = np.random.default_rng(seed), 0
    for k in range(datasets):
        table, Y = simulated(case, rng)
        if case.get("missing"):
            Y[rng.uniform(size=Y.shape) < 0.05] = np.nan
        model = mm.Model.from_formula(case["formula"], table.assign(y=np.nan_to_num(Y[0])))
        more = {}
        if "statistic" in case:
            more = {"statistic": case["statistic"], "adjacency": mm.grid_adjacency((3, 4))}
        test = mm.permutation_test(model, Y, case["term"], key=k, n=n, scheme=case["scheme"], progress=False, **more)
        found += bool(np.nanmin(test.frame.p_fwe) <= LEVEL)
    return found


WITHIN = {"formula": "y ~ x + (1 | g)", "term": "x", "groups": 12}
BETWEEN = {"formula": "y ~ arm + age + (1 | g)", "term": "arm", "groups": 24}
CASES = {
    "sign, effect within groups": WITHIN | {"scheme": "sign"},
    "sign, random slopes": WITHIN | {"formula": "y ~ x + (x | g)", "scheme": "sign", "slopes": True},
    "sign, unequal variances": WITHIN | {"scheme": "sign", "unequal": True},
    "within": WITHIN | {"scheme": "within"},
    "within, unequal variances of groups": WITHIN | {"scheme": "within", "unequal": True},
    "within, 5 % missing": WITHIN | {"scheme": "within", "missing": True},
    "groups, with a covariate": BETWEEN | {"scheme": "groups"},
    "groups, cluster": BETWEEN | {"scheme": "groups", "statistic": "cluster"},
    "wild, between groups": BETWEEN | {"scheme": "wild"},
    "wild, unequal variances, 8 of 24 treated": BETWEEN | {"scheme": "wild", "unequal": True, "treated": 8},
    "sign, tfce": WITHIN | {"scheme": "sign", "statistic": "tfce"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_family_wise_error(name, claim):
    datasets = 500
    found = rejections(CASES[name], datasets, seed=len(name))
    claim(f"permutation test, {name}: family-wise error at 5 %", found / datasets, LEVEL, n=datasets)
    assert abs(found - LEVEL * datasets) < 3.5 * (datasets * LEVEL * (1 - LEVEL)) ** 0.5


def test_family_wise_error_in_a_few_data_sets():
    """At most 6 of 30, which a level of 5 % passes in 999 of 1,000 runs."""
    assert rejections(CASES["within"], 30, seed=2, n=40) <= 6


def test_an_effect_is_found():
    rng = np.random.default_rng(3)
    table, Y = simulated(WITHIN, rng)
    Y[4] += 2 * table.x.to_numpy()
    model = mm.Model.from_formula(WITHIN["formula"], table.assign(y=Y[0]))
    frame = mm.permutation_test(model, Y, "x", key=1, n=40, scheme="within", progress=False).frame
    assert frame.p_fwe[4] == 1 / 40 and frame.p_fwe.drop(4).min() > 0.05
