"""The direction of imports, read from the sources: from higher to lower layers, the client without the server."""

import ast
from functools import cache
from pathlib import Path

import umrgen

ROOT = Path(umrgen.__file__).parent

# Each layer may import from itself and from those before it in its own line. Names are prefixes.
CLIENT = [
    ["text"],
    ["errors", "paths", "durable", "file_locks", "clock"],
    ["model", "image_files"],
    ["provenance"],
    [
        "client.address",
        "client.responses",
        "client.descriptions",
        "client.failures",
        "client.engine_error",
        "client.older_servers",
        "client.config",
    ],
    ["client.proxies", "client.pools"],
    ["client.flow", "client.options"],
    ["client.protocol"],
    ["client.flows"],
    [
        "client.partial",
        "client.target",
        "client.streams",
        "client.conversion",
        "client.transport",
        "client.stdlib_transport",
        "client.journal",
        "client.journal_entries",
    ],
    ["client.retrieval", "client.driver", "client.known_jobs"],
    ["client.job"],
    ["client.async_client"],
    ["client.client", "client.local_checks", "client.diagnostics", "client.load"],
    ["testing"],
    ["cli", "mcp", "__main__"],
]
SERVER = [
    ["text"],
    ["errors", "paths", "durable", "file_locks", "clock"],
    ["model", "image_files", "server.model_choice"],
    ["provenance"],
    [
        "server.settings",
        "server.settings_report",
        "server.setting_values",
        "server.comfyui_hint",
        "server.health",
        "server.machine",
        "server.proposal",
        "server.reload",
        "server.deployment",
        "server.state",
        "server.logs",
        "server.tracing",
        "server.allowed_hosts",
        "server.pdq",
        "server.query_hashes",
        "server.png",
        "server.reencode",
        "server.watermark",
        "server.signing",
        "server.conversion",
        "server.thumbnails",
        "server.running_time",
        "server.tasks",
        "server.domain",
        "mcp.answers",
        "mcp.previews",
        "mcp.tasks",
        "mcp.waits",
        "mcp.backend",
        "mcp.tools",
    ],
    ["server.ledger", "server.ledger.errors", "server.ledger.values", "server.blobs", "server.engines"],
    ["server.metrics"],
    ["server.executors"],
    [
        "server.scheduler.previews",
        "server.scheduler.eta",
        "server.scheduler.leases",
        "server.scheduler.preview_exchange",
        "server.scheduler.registration",
    ],
    ["server.webhooks"],
    ["server.services"],
    ["server.scheduler"],
    ["server.http"],
    ["server.implementations"],
    ["server.composition"],
    ["server.application"],
    ["server.serve", "server.asgi", "server.engine_check", "server.engine_plan"],
    ["server.work"],
]


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else ""] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path, *, lazy: bool) -> set[str]:
    """Return the umrgen modules that a file imports, at its top level or (`lazy`) inside its functions."""
    tree = parsed(path)
    # Imports under TYPE_CHECKING are not executed.
    tree.body = [node for node in tree.body if not isinstance(node, ast.If) or "TYPE_CHECKING" not in ast.dump(node)]
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        if (node in inner) != lazy:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "umrgen":
            base = node.module.removeprefix("umrgen").removeprefix(".")
            known = modules()
            for alias in node.names:
                inside = f"{base}.{alias.name}" if base else alias.name
                found.add(inside if inside in known else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("umrgen.") for alias in node.names if alias.name.startswith("umrgen.")}
    return found


def layer(name: str, layers: list[list[str]]) -> int | None:
    """Return the number of the layer with the longest prefix that fits."""
    fits = [
        (len(prefix), number)
        for number, prefixes in enumerate(layers)
        for prefix in prefixes
        if name == prefix or name.startswith(f"{prefix}.")
    ]
    return max(fits)[1] if fits else None


def test_every_module_has_a_layer() -> None:
    without = [
        name
        for name in modules()
        if name not in ("", "server", "client") and layer(name, CLIENT) is None and layer(name, SERVER) is None
    ]
    assert without == []


def test_no_module_imports_from_a_higher_layer() -> None:
    wrong = []
    for name, path in modules().items():
        layers = SERVER if name.startswith("server") else CLIENT
        here = layer(name, layers)
        for imported in imports(path, lazy=False) - {""}:
            there = layer(imported, layers)
            if here is not None and (there is None or there > here):
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_the_client_does_not_import_the_server() -> None:
    for name, path in modules().items():
        if name.startswith("server"):
            continue
        touched = {imported for imported in imports(path, lazy=False) if imported.startswith("server")}
        assert touched == set(), f"{name} imports {touched}"
        # `umrgen serve` starts a server, and so does a FaultServer in the mode modern.
        if not name.startswith("cli") and name not in ("testing.in_process", "testing.engine"):
            assert not {i for i in imports(path, lazy=True) if i.startswith("server")}, name


def test_engines_do_not_import_the_ledger_and_handlers_import_only_services() -> None:
    for name, path in modules().items():
        touched = imports(path, lazy=False) | imports(path, lazy=True)
        if name.startswith("server.engines"):
            assert not {i for i in touched if i.startswith(("server.ledger", "server.http", "server.blobs"))}, name
        if name.startswith("server.http"):
            assert not {
                i
                for i in touched
                if i.startswith(
                    (
                        "server.ledger",
                        "server.blobs",
                        "server.engines",
                        "server.executors",
                        "server.scheduler",
                        "server.webhooks",
                    )
                )
            }, name
        if name != "server.implementations" and not name.startswith("server.executors.subprocess"):
            concrete = {
                "server.ledger.sqlite.file",
                "server.ledger.sqlite.memory",
                "server.blobs.local",
                "server.blobs.s3",
                "server.executors.subprocess",
            }
            assert not touched & concrete, f"{name} chooses an implementation"


def test_services_and_domain_import_no_framework() -> None:
    """Neither HTTP nor SQL: a second transport or another database adds no rule."""
    for name, path in modules().items():
        if not name.startswith(("server.services", "server.domain")):
            continue
        touched = imports(path, lazy=False) | imports(path, lazy=True)
        outer = ("server.http", "server.ledger.", "server.composition", "server.application")
        assert not {i for i in touched if i.startswith(outer)}, name
        foreign = {
            root
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for root in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
            if root and root.split(".")[0] in ("starlette", "granian", "uvicorn", "httpx2", "sqlite3", "http")
        }
        assert not foreign, f"{name} imports {foreign}"


def test_there_is_no_import_cycle() -> None:
    graph = {name: imports(path, lazy=False) - {name} for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail, name])
        if name not in done:
            for other in graph.get(name, ()):
                if other:
                    visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_class_names_are_unique() -> None:
    """A search for a class name finds one definition."""
    defined: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, []).append(name)
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


def test_each_transport_of_agents_is_small() -> None:
    """A transport has no rule in it, so it needs fewer than 400 lines."""
    for transport in ("http/mcp.py", "http/a1111.py", "http/openai"):
        path = ROOT / "server" / transport
        files = list(path.glob("*.py")) if path.is_dir() else [path]
        assert 0 < sum(len(file.read_text().splitlines()) for file in files) < 400, transport
