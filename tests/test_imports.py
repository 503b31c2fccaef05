"""The direction of imports: what stands lower never imports what stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmproxy"

# From top to bottom, as in the design. A module may import from its own layer only what the last column names.
LAYERS: list[dict[str, set[str]]] = [
    {
        "__main__": {"cli"},
        "plugin": {"cli", "registration"},
        "registration": set(),
        "cli": set(),
    },
    {"demo": set(), "check": set(), "testing": set(), "upstream_models": set()},
    {
        "bench": {"app", "serve", "supervisor", "ingest", "ingester"},
        "serve": {"app", "server", "workers", "supervisor"},
        "workers": {"app", "server"},
        "supervisor": set(),
        "server": set(),
        "ingester": {"ingest", "supervisor"},
        "reingest": {"ingest"},
        "stats": set(),
        "breakdown": {"stats"},
        "breakdown_table": {"breakdown"},
        "app": set(),
        "ingest": set(),
        "inprocess": set(),
        "export": set(),
    },
    {
        "direct": {"forward", "passage"},
        "passage": {"forward"},
        "forward": set(),
        "store": set(),
        "ask": set(),
        "hooks": set(),
        "preflight": set(),
        "prompt_time": set(),
    },
    {
        "guard": set(),
        "upstreams": {"transports"},
        "transports": set(),
        "capture": {"metrics"},
        "metrics": set(),
    },
    {
        "headers": set(),
        "client": {"errors", "headers"},
        "loopback": set(),
        "reconstruct": {"headers"},
        "parts": set(),
        "config": set(),
        "errors": {"headers"},
        "console": {"errors"},
        "upstream_keys": {"config", "loopback"},
        "tokens": set(),
        "prices": {"config", "loopback", "tokens"},
    },
    {"": set()},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
NEVER_ON_THE_HOT_PATH = {"reconstruct", "parts", "store", "ingest"}
HOT = {
    "direct",
    "forward",
    "passage",
    "headers",
    "capture",
    "transports",
    "upstreams",
    "guard",
    "loopback",
    "metrics",
    "app",
    "ask",
    "errors",
    "config",
    "server",
    "client",
}
# llm's values are the words that reconstructing speaks in; all the rest of llm is known to one module.
LLM_VALUES = ("llm.parts.", "llm.Tool", "llm.Attachment")
KNOWS_LLM = {
    "store/llm_store.py",
    "store/log_store.py",
    "store/open_database.py",
    "inprocess/llm_models.py",
    "inprocess/llm_models_request.py",
    "inprocess/llm_models_answer.py",
    "inprocess/llm_models_attachments.py",
    "inprocess/llm_models_pieces.py",
    "plugin.py",
    "registration.py",
    "upstream_models.py",
}
SPEAKS_IN_LLMS_VALUES = {"reconstruct", "parts", "store", "bench", "export"}
OPENS_THE_DATABASE = {"store", "ingest", "reingest", "bench"}


def unit(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path: Path) -> set[str]:
    """The modules that a file imports when it runs, `TYPE_CHECKING` blocks left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_no_import_points_up(path: Path) -> None:
    own = unit(path)
    assert own in LEVEL, f"{own} has no layer: give it one"
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "llmproxy":
            other = rest.partition(".")[0]
            other = other if other in LEVEL else ""
            same = LEVEL[other] == LEVEL[own]
            allowed = LEVEL[other] > LEVEL[own] or other == own or (same and other in LAYERS[LEVEL[own]][own])
            assert allowed, f"{path.name} imports {name}"
            assert not (own in HOT and other in NEVER_ON_THE_HOT_PATH), f"{path.name} is on the hot path"
        if top == "llm":
            values = own in SPEAKS_IN_LLMS_VALUES and name.startswith(LLM_VALUES)
            assert values or path.relative_to(PACKAGE).as_posix() in KNOWS_LLM, f"{path.name} imports {name}"
        if top == "sqlite_utils":
            assert own in OPENS_THE_DATABASE, f"{path.name} imports {name}"


def test_each_layer_names_what_is_there() -> None:
    assert set(LEVEL) == {unit(path) for path in FILES}


def test_apps_in_the_process_are_loaded_by_their_import_string() -> None:
    importers = {unit(path) for path in FILES for name in imports(path) if name.startswith("llmproxy.inprocess.")}
    assert importers == {"inprocess", "cli"}  # `llmproxy mock` serves nothing else


@pytest.mark.parametrize("path", [path for path in FILES if unit(path) == "reconstruct"], ids=lambda path: path.name)
def test_reconstruct_does_no_io(path: Path) -> None:
    io = {
        "asyncio",
        "fcntl",
        "httpx2",
        "os",
        "pathlib",
        "shutil",
        "socket",
        "sqlite3",
        "subprocess",
        "tempfile",
        "threading",
    }
    assert not {name.partition(".")[0] for name in imports(path)} & io


def test_the_serving_process_loads_neither_llm_nor_what_reads_the_database() -> None:
    script = (
        "import sys, llmproxy.app, llmproxy.serve, llmproxy.inprocess.mock\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('llm', 'sqlite_utils')"
        " or name.startswith(('llmproxy.reconstruct', 'llmproxy.store', 'llmproxy.ingest'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_next_to_nothing() -> None:
    script = (
        "import sys, llmproxy.cli; print('pydantic' in sys.modules, 'httpx2' in sys.modules, 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3
