"""The house stands as it was designed: a floor imports only floors below it, and some libraries live on one floor alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train", "eval", "mine", "export")
FLOORS = ["ground", "modeling", "retrieval", "training", "app"]
GROUND = ("e5ft.errors", "e5ft.files", "e5ft.distributed", "e5ft.data")
# The ground floor's own order: what each of its parts may import of e5ft.
GROUND_IMPORTS = {
    "e5ft.errors": (),
    "e5ft.files": ("e5ft.errors",),
    "e5ft.distributed": ("e5ft.errors", "e5ft.files"),
    "e5ft.data": GROUND,
}
ONLY_IN_APP = ("hydra", "omegaconf", "wandb")


def modules(root: Path) -> dict[str, Path]:
    """Name -> file of every module of the package, and of the scripts."""
    found = {}
    for path in sorted((root / "e5ft").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for name in SCRIPTS:
        if (root / f"{name}.py").is_file():
            found[name] = root / f"{name}.py"
    return found


def nodes(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes, or those that run when the module is imported (`if TYPE_CHECKING:` does not)."""
    for child in ast.iter_child_nodes(tree):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not inside_functions and (is_function or is_for_types):
            continue
        yield child
        yield from nodes(child, inside_functions=inside_functions)


def imports(name: str, known: dict[str, Path], *, inside_functions: bool = True) -> set[str]:
    """What a module imports, by full name; of `from a import b` it is a.b where that is a module, else a."""
    path, found = known[name], set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source for alias in node.names)
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def floor(name: str) -> str | None:
    """The floor on which a module of e5ft stands; None if the design names none."""
    if within(name, GROUND):
        return "ground"
    return next((floor for floor in FLOORS[1:] if within(name, (f"e5ft.{floor}",))), None)


# -- the rules; each gives what breaks it ------------------------------------------------------------------------------------


def without_a_floor(root: Path) -> list[str]:
    return [name for name in modules(root) if name not in ("e5ft", *SCRIPTS) and floor(name) is None]


def upward_imports(root: Path) -> list[str]:
    """Imports of a floor above, and on the ground floor of what must not know each other; also those inside functions."""
    known, broken = modules(root), []
    for name in known:
        for imported in sorted(imports(name, known)):
            if not within(imported, ("e5ft",)) or imported == "e5ft" or name in SCRIPTS:
                continue
            if name == "e5ft":
                allowed = False  # or else everything would import everything
            elif floor(name) == "ground":
                allowed = within(imported, next(GROUND_IMPORTS[part] for part in GROUND if within(name, (part,))))
            else:
                higher = FLOORS.index(floor(imported) or "app") > FLOORS.index(floor(name) or "ground")
                allowed = not higher
            if not allowed:
                broken.append(f"{name} imports {imported}")
    return broken


def cycles(root: Path) -> list[str]:
    """Circles of imports that happen when a module is imported."""
    known = modules(root)
    graph = {name: imports(name, known, inside_functions=False) & known.keys() - {name} for name in known}
    found, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for imported in sorted(graph[name]):
                visit(imported, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def imports_of_scripts(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{name} imports {imported}" for name in known for imported in sorted(imports(name, known)) if within(imported, SCRIPTS)
    ]


def misplaced_libraries(root: Path) -> list[str]:
    known, broken = modules(root), []
    for name in known:
        if name not in SCRIPTS and floor(name) != "app":
            broken += [f"{name} imports {i}" for i in sorted(imports(name, known)) if within(i, ONLY_IN_APP)]
        at_import = imports(name, known, inside_functions=False)
        broken += [f"{name} imports {i}" for i in sorted(at_import) if within(i, ("sentence_transformers",))]
    return broken


RULES = [without_a_floor, upward_imports, cycles, imports_of_scripts, misplaced_libraries]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert rule(ROOT) == []


def test_the_package_is_found():
    """The rules above would hold for an empty folder too."""
    found = modules(ROOT)
    assert {"e5ft", "e5ft.errors", "e5ft.files", "e5ft.distributed", "e5ft.data.text", "e5ft.modeling.encoder"} <= found.keys()
    assert "e5ft.data.step" in imports("e5ft.training.losses", found)
    assert "e5ft.distributed" in imports("e5ft.data.store", found)


# -- the rules themselves, on a package in which one thing is wrong ----------------------------------------------------------

CIRCLE = "e5ft.data.text -> e5ft.data.rows -> e5ft.data.text"
BREACHES = [
    (without_a_floor, "e5ft/utils.py", "", "e5ft.utils"),
    (without_a_floor, "e5ft/helpers/__init__.py", "", "e5ft.helpers"),
    (upward_imports, "e5ft/files.py", "from e5ft import distributed", "e5ft.files imports e5ft.distributed"),
    (upward_imports, "e5ft/errors.py", "import e5ft.files", "e5ft.errors imports e5ft.files"),
    (upward_imports, "e5ft/distributed.py", "from e5ft.data.text import x", "e5ft.distributed imports e5ft.data.text"),
    (upward_imports, "e5ft/data/text.py", "from ..modeling import encoder", "e5ft.data.text imports e5ft.modeling.encoder"),
    (upward_imports, "e5ft/data/text.py", "def f():\n    import e5ft.app", "e5ft.data.text imports e5ft.app"),
    (upward_imports, "e5ft/modeling/encoder.py", "import e5ft.retrieval", "e5ft.modeling.encoder imports e5ft.retrieval"),
    (upward_imports, "e5ft/retrieval/__init__.py", "from .. import training", "e5ft.retrieval imports e5ft.training"),
    (upward_imports, "e5ft/training/trainer.py", "from e5ft import app", "e5ft.training.trainer imports e5ft.app"),
    (upward_imports, "e5ft/__init__.py", "from e5ft.errors import x", "e5ft imports e5ft.errors"),
    (cycles, "e5ft/data/text.py", "from . import rows", CIRCLE),
    (cycles, "e5ft/data/text.py", "try:\n    import e5ft.data.rows\nexcept OSError:\n    pass", CIRCLE),
    (imports_of_scripts, "e5ft/app/__init__.py", "from train import main", "e5ft.app imports train"),
    (imports_of_scripts, "eval.py", "import train", "eval imports train"),
    (misplaced_libraries, "e5ft/training/trainer.py", "def f():\n    import wandb", "e5ft.training.trainer imports wandb"),
    (misplaced_libraries, "e5ft/data/rows.py", "from omegaconf import x", "e5ft.data.rows imports omegaconf"),
    (misplaced_libraries, "e5ft/modeling/encoder.py", "import hydra.utils", "e5ft.modeling.encoder imports hydra.utils"),
    (misplaced_libraries, "export.py", "import sentence_transformers.util", "export imports sentence_transformers.util"),
]
ALLOWED = {
    "e5ft/__init__.py": "",
    "e5ft/errors.py": "import sys",
    "e5ft/files.py": "from e5ft.errors import DataError",
    "e5ft/distributed.py": "import torch",
    "e5ft/data/__init__.py": "",
    "e5ft/data/text.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from e5ft.data import rows\ndef f():\n    import e5ft.data.rows"
    ),
    "e5ft/data/rows.py": "from e5ft import distributed, errors\nfrom .text import x",
    "e5ft/modeling/__init__.py": "",
    "e5ft/modeling/encoder.py": "from e5ft.data.text import x\ndef f():\n    import sentence_transformers",
    "e5ft/retrieval/__init__.py": "from ..modeling import encoder",
    "e5ft/training/__init__.py": "",
    "e5ft/training/trainer.py": "import evaluate\nfrom e5ft import retrieval",
    "e5ft/app/__init__.py": "import hydra, wandb\nfrom e5ft.training import trainer",
    "train.py": "import hydra\nfrom e5ft.app import x",
}


def write_package(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_lets_pass_what_is_allowed(rule, tmp_path):
    assert rule(write_package(tmp_path, ALLOWED)) == []


@pytest.mark.parametrize("rule, name, content, message", BREACHES, ids=[f"{rule.__name__}-{name}" for rule, name, *_ in BREACHES])
def test_a_rule_finds_its_breach(rule, name, content, message, tmp_path):
    assert message in rule(write_package(tmp_path, {**ALLOWED, name: content}))
