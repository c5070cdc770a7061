"""Each module imports only from modules above it: the layout read from top to bottom is the order of the layers."""

import ast
from pathlib import Path

import pytest

import jaxmm

ROOT = Path(jaxmm.__file__).parent

LAYERS = Path(__file__).with_name("layers.txt").read_text().split()

# function-level imports: what is optional or slow to import, and is needed by few
HEAVY = ("narwhals", "matplotlib", "scipy", "polars", "pyarrow", "formulaic", "tqdm", "xarray", "arviz", "ray", "optax")


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
