"""Each module imports only from modules above it: the layout read from top to bottom is the order of the layers."""

import ast
from pathlib import Path

import pytest

import jaxmm

ROOT = Path(jaxmm.__file__).parent

LAYERS = (
    "_types costs _compiled _keywords _warn "
    "_special _normal links families.extras families._base families.gaussian families.poisson families.binomial "
    "families.gamma families.inverse_gaussian families.nbinom2 families.nbinom1 families.beta families.betabinomial "
    "families.zero_inflated families covariance._base covariance.us covariance.diag covariance.homdiag "
    "covariance.homcs covariance.cs covariance.ar1 covariance.hetar1 covariance "
    "design.syntax design.terms design.columns design.splines design.functions design.transforms design.formula "
    "design.contrasts design.modelmatrix design.remarks design.grouping design.inputs design.predictor "
    "design.response design.design design.building design design.checks design.from_arrays "
    "structure layout plan _context _random _pieces gram cells rows solver._base "
    "solver.block_matmul solver.spd solver.couplings solver.elimination solver solver.dense "
    "objective.parameters objective.lmm "
    "objective.density objective.mode objective.laplace objective.quadrature objective optimize.ends optimize.region "
    "optimize.host optimize.loop optimize.again optimize start estimate "
    "start_glmm start_apart estimate_glmm start_given programs inference.wald _text tables "
    "shrinkage likelihood prepared inference.ddf._base inference.ddf.constant inference.ddf.satterthwaite "
    "inference.ddf.kenward_roger inference.ddf coefficients summary fitted predict residuals simulate "
    "inference.marginal linear generalised describe "
    "diagnostics sources.responses sources sources.given sources.truth "
    "lanes.entrywise lanes.advance lanes.problem lanes.statistics lanes.closed_form lanes.collapse "
    "lanes.linear_lanes lanes.linear_weighted lanes.linear_blocks lanes.laplace_table lanes.laplace_blocks "
    "lanes.generalised_lanes lanes.generalised_blocks lanes "
    "results.schema results.files results.multiplicity results.replicate results.result results.store results "
    "sources.draw sources.direct sources.resample batch.pool batch.setup batch.interrupts batch.engine "
    "studies.intervals studies.jackknife studies.bootstrap inference.confint fit model "
    "inference.compare inference studies.montecarlo studies.hypotheses "
    "studies.study_result studies.study studies.designs studies.extending studies.smallest studies.curve studies.power "
    "studies batch plots datasets"
).split()

# function-level imports: what is optional or slow to import, and is needed by few
HEAVY = ("narwhals", "matplotlib", "scipy", "polars", "pyarrow", "formulaic", "tqdm")


def modules() -> dict[str, ast.Module]:
    """Name relative to the package -> syntax tree; the package's own __init__ is what users see, below all."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()


def imports(tree: ast.AST, inside: bool = False):
    """(node, whether inside a function) of every import, also of those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside
        else:
            yield from imports(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def targets(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    """Full names of the modules that an import names; of the package's own as ``jaxmm.…``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = ["jaxmm", *module.split(".")]
        if not (ROOT / Path(*module.split(".")) / "__init__.py").exists():
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, base]) if base else ".".join(package)
    names = []
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        names.append(inner if inner.removeprefix("jaxmm.") in MODULES else base)
    return names


def test_every_module_has_its_place():
    assert sorted(MODULES) == sorted(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_upwards(module):
    above = LAYERS[: LAYERS.index(module)]
    for node, _ in imports(MODULES[module]):
        for target in targets(node, module):
            if target.split(".")[0] != "jaxmm":
                continue
            name = target.removeprefix("jaxmm").removeprefix(".")
            assert name in above, f"jaxmm.{module}, line {node.lineno}, imports {target}, which stands below it"


@pytest.mark.parametrize("module", MODULES)
def test_imports_inside_functions_are_of_heavy_packages(module):
    for node, inside in imports(MODULES[module]):
        for target in targets(node, module):
            assert not inside or target.split(".")[0] in HEAVY, (
                f"jaxmm.{module}, line {node.lineno}: import {target} at the top of the module"
            )


def test_the_reader_of_imports():
    """The test's own eyes: relative, nested and guarded imports."""
    tree = ast.parse(
        "from . import _text\nfrom .tables import pairs\nfrom jaxmm.solver import spd, reduce\n"
        "if TYPE_CHECKING:\n    from jaxmm.fit import Fit\n"
        "def f():\n    import matplotlib.pyplot\n"
    )
    seen = [(t, inside) for node, inside in imports(tree) for t in targets(node, "summary")]
    assert seen == [
        ("jaxmm._text", False),
        ("jaxmm.tables", False),
        ("jaxmm.solver.spd", False),
        ("jaxmm.solver", False),
        ("jaxmm.fit", False),
        ("matplotlib.pyplot", True),
    ]
    relative = ast.parse("from ..tables import pairs\nfrom .spd import DENSE").body
    assert [targets(n, "solver.elimination") for n in relative] == [["jaxmm.tables"], ["jaxmm.solver.spd"]]
