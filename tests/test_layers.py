"""The imports that each room may have: the shape of the code, read from its imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "portico"
FILES = sorted(PACKAGE.rglob("*.py"))

# room -> the rooms of ours that it may import, beside itself
MAY_IMPORT = {
    "core": set[str](),
    "config": set[str](),
    "http1": set[str](),
    "metrics": set[str](),
    "gateway": {"core", "http1"},
    "transports": {"core", "http1", "metrics", "plugins"},
    "plugins": {"core", "metrics", "transports"},
    "ziti": {"core", "metrics", "plugins", "transports"},
    "server": {"config", "core", "gateway", "metrics", "plugins", "transports"},
    "testing": {"config", "core", "plugins", "server", "transports"},
    "cli": {"config", "core", "plugins", "server", "transports", "ziti"},
}
# Files of plugins' packages that are called after the hook that they answer.
ROLES = {"authenticator.py", "driver.py", "store.py"}
# Files that may share their name. `portico.testing` offers its own engine and authenticators under these names; the
# commands of `cli/client` are named after what they show.
SHARED_NAMES = {
    "authenticator.py": {"testing"},
    "engine.py": {"core", "testing"},
    "errors.py": {"core", "cli/client"},
    "sessions.py": {"core", "cli/client"},
    "store.py": {"core"},
    "turn.py": {"core", "cli/client"},
}
SHARED = {"__init__.py", "__main__.py"}
AT_THE_TOP = {"__init__.py", "__main__.py", "api.py", "py.typed"}
NOT_IN_CORE = {"pluggy", "pydantic_settings", "sse_starlette", "socket", "starlette", "uvicorn", "httpx"}


def imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """The absolute names of the modules that a file imports, without those for type checkers only."""
    package = ["portico", *path.relative_to(PACKAGE).parts[:-1]]
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and at_run_time:
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])
        nodes += ast.iter_child_nodes(node)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "portico" and len(parts) > 1 else ""


def test_beside_the_rooms_lies_nothing_but_the_face_of_the_package() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.is_file() or any(path.glob("*.py"))}
    assert found - AT_THE_TOP == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    if own in AT_THE_TOP:
        return
    ours = {room(module) for module in imports(path) if module.startswith("portico.")}
    assert ours - {own} <= MAY_IMPORT[own]


def test_the_core_knows_no_network_and_no_plugin_manager() -> None:
    found = {module.split(".")[0] for path in (PACKAGE / "core").glob("*.py") for module in imports(path)}
    assert not found & NOT_IN_CORE


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return a way from a module back to itself for each circle that a walk over the imports closes."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for following in sorted(graph[module] & graph.keys()):
                walk(following, [*way, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_no_module_of_the_core_imports_itself_by_way_of_others() -> None:
    paths = (PACKAGE / "core").glob("*.py")
    graph = {f"portico.core.{path.stem}": set(imports(path, at_run_time=False)) for path in paths}
    assert circles(graph) == []
    assert circles({**graph, "portico.core.source": {"portico.core.audit"}}) != []


def test_a_file_has_a_name_of_its_own() -> None:
    """Two files of one name would be two nouns that a reader, a log and a search can't tell apart."""
    folders = defaultdict(set)
    for path in FILES:
        folder = path.parent.relative_to(PACKAGE).as_posix()
        in_role = path.name in ROLES and folder.startswith("plugins/")
        if path.name not in SHARED and not in_role and folder not in SHARED_NAMES.get(path.name, ()):
            folders[path.name].add(folder)
    taken = ROLES | SHARED_NAMES.keys()
    assert {name: found for name, found in folders.items() if len(found) > 1 or name in taken} == {}


def test_no_exception_for_a_name_is_left_over() -> None:
    for name, folders in SHARED_NAMES.items():
        assert all((PACKAGE / folder / name).is_file() for folder in folders), name


def test_hook_specifications_import_nothing_of_ours_at_run_time() -> None:
    assert not [module for module in imports(PACKAGE / "plugins" / "hookspecs.py") if module.startswith("portico")]


def test_a_plugin_takes_nothing_from_the_transports_but_how_routes_say_what_they_are() -> None:
    found = {m for path in (PACKAGE / "plugins").rglob("*.py") for m in imports(path) if room(m) == "transports"}
    assert found <= {"portico.transports.operation"}


def test_a_transport_takes_nothing_from_the_plugins_but_their_marker() -> None:
    found = {m for path in (PACKAGE / "transports").glob("*.py") for m in imports(path) if room(m) == "plugins"}
    assert found <= {"portico.plugins.markers"}


def test_the_environment_is_read_in_one_place() -> None:
    readers = [
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(
            isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert readers in ([], ["config/load.py"])


def test_what_is_built_in_but_not_selected_is_never_imported() -> None:
    script = (
        "import sys; from portico.plugins.manager import load_plugins; load_plugins();"
        "print([m for m in sys.modules if m.split('.')[0] in ('starlette', 'uvicorn', 'sse_starlette',"
        " 'claude_code_sdk', 'psutil', 'httpx') or m.endswith(('.driver', '.store', '.http'))])"
    )
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"


def test_the_driver_in_the_examples_imports_only_what_outsiders_may() -> None:
    """`docs/plugins.md` lists it; the names from a module are those of its ``__all__``."""
    root = PACKAGE.parent
    _, listed = (root / "docs" / "plugins.md").read_text().split("\n## What to import\n")
    modules = {"portico", *re.findall(r"`(portico\.[\w.]+)`", listed)}
    files = [*(root / "examples" / "portico-claude-agent-sdk").rglob("*.py")]
    assert len(files) > 8
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "portico"], path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "portico":
                public = getattr(import_module(node.module or ""), "__all__", None)
                names = {alias.name for alias in node.names}
                assert node.module in modules and (public is None or names <= set(public)), (path, node.module, names)
