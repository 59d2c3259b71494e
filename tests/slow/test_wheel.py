"""The wheel works when it is installed into an empty environment with the requirements of its metadata."""

import asyncio
import email
import json
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Sequence
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from fake_comfyui import FakeComfyUI
from postgres import shared_databases
from s3_server import new_prefix, shared_s3
from support import SMALL, ServerProcess, clean_environment, server, submit, tied
from umrgen.image_files import verify
from umrgen.provenance import Provenance, mark
from umrgen.server.signing import ManifestSigner, SigningOptions
from umrgen.server.signing.trial import write_trial
from umrgen.testing import png_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


class Environment:
    """A virtual environment with the wheel and its requirements."""

    def __init__(self, folder: Path, requirement: str, before: Sequence[str] = ()) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        venv.create(folder / "venv", with_pip=True)
        for required in (*before, requirement):
            self.run("python", "-m", "pip", "install", "--quiet", required, timeout=400)
        self.run("python", "-m", "pip", "check")

    def command(self, program: str, *arguments: str) -> list[str]:
        return tied(str(self.bin / program), *arguments)

    def run(
        self, program: str, *arguments: str, timeout: float = 100, typed: str | None = None, **environment: str
    ) -> str:
        """Run a program outside of the checkout, and return its output; fail if its exit code is not 0.

        `typed` is its standard input.
        """
        outside = clean_environment(XDG_DATA_HOME=str(self.folder / "data"), **environment)
        outside.pop("PYTHONPATH", None)
        done = subprocess.run(
            self.command(program, *arguments),
            cwd=self.folder,
            env=outside,
            input=typed,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class InstalledServer(ServerProcess):
    """`umrgen serve` of an installed wheel."""

    def __init__(self, environment: Environment, **variables: str) -> None:
        super().__init__(environment.folder / "state", PYTHONPATH="", **variables)
        self.command = (str(environment.bin / "umrgen"),)  # type: ignore[misc]


def use_base(environment: Environment, tmp_path: Path) -> None:
    assert "generate" in environment.run("umrgen", "--help")
    with server(tmp_path / "state") as running, running.http() as http:
        place = {"UMRGEN_BASE_URL": running.url, "UMRGEN_API_KEY": running.key}
        job_id = submit(http)
        assert json.loads(environment.run("umrgen", "status", job_id, "--json", **place))["job_id"] == job_id
        environment.run("umrgen", "fetch", job_id, "-o", "boat.png", **place)
        assert verify((environment.folder / "boat.png").read_bytes()).width == 512
        login, generate = typed_commands("pip install umrgen\n")
        environment.run(*login, typed=f"{running.url}\n{running.key}\n")
        environment.run(*generate)
    assert verify((environment.folder / "lighthouse.png").read_bytes()).width == 1024


def typed_commands(start: str) -> list[list[str]]:
    """Return the commands below the installation in the README, in the block that begins with `start`."""
    (block,) = re.findall(rf"```sh\n{re.escape(start)}(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


def use_server(environment: Environment, tmp_path: Path) -> None:
    (generate,) = typed_commands("pip install 'umrgen[server]'\n")
    environment.run(*generate)
    (image,) = environment.folder.glob("*.png")
    assert verify(image.read_bytes()).width == 1024
    small = [f"--{name}={value}" for name, value in SMALL.items()]
    environment.run("umrgen", "generate", "a boat", "-o", "boat.png", *small)
    assert verify((environment.folder / "boat.png").read_bytes()).width == 512
    deploy = ROOT / "deploy"
    assert environment.run("umrgen", "serve", "--print-config") == (deploy / "umrgen.toml").read_text()
    assert environment.run("umrgen", "serve", "--print-policy") == (deploy / "policy-words.txt").read_text()
    unit = (deploy / "umrgen.service").read_text().replace("/opt/umrgen/bin/umrgen", str(environment.bin / "umrgen"))
    assert environment.run("umrgen", "serve", "--print-unit") == unit
    running = InstalledServer(environment).start()
    try:
        page = httpx2.get(running.url, headers={"Accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        parts = re.findall(r'(?:href|src)="([^"#:]+\.(?:js|css|svg))"', page.text)
        assert len(parts) >= 2
        for part in parts:
            assert httpx2.get(f"{running.url}/{part}").status_code == 200, part
        place = {"UMRGEN_BASE_URL": running.url, "UMRGEN_API_KEY": running.key}
        environment.run("umrgen", "generate", "a boat", "-o", "served.png", *small, **place)
        assert verify((environment.folder / "served.png").read_bytes()).width == 512
    finally:
        assert running.stop() == 0


async def draw_by_mcp(environment: Environment, running: ServerProcess, folder: Path) -> None:
    place = clean_environment(UMRGEN_BASE_URL=running.url, UMRGEN_API_KEY=running.key)
    place.pop("PYTHONPATH", None)
    program, *arguments = environment.command("umrgen", "mcp", "--folder", str(folder))
    async with Client(StdioServerParameters(command=program, args=arguments, env=place)) as client:
        drawn = await client.call_tool("generate_image", {"prompt": "a boat", **SMALL})
    assert drawn.structured_content is not None
    assert verify(Path(drawn.structured_content["images"][0]).read_bytes()).width == 512


def use_mcp(environment: Environment, tmp_path: Path) -> None:
    with server(tmp_path / "state") as running:
        asyncio.run(draw_by_mcp(environment, running, tmp_path / "images"))


def use_c2pa(environment: Environment, tmp_path: Path) -> None:
    write_trial(tmp_path / "trial")
    options = SigningOptions(*(str(tmp_path / "trial" / name) for name in ("certificate.pem", "key.pem")))
    record = Provenance("algorithmicMedia", seed=7)
    (environment.folder / "boat.png").write_bytes(ManifestSigner(options).sign(mark(png_bytes(), record), record))
    trust = ("--trust", str(tmp_path / "trial" / "root.pem"))
    (found,) = json.loads(environment.run("umrgen", "verify", "boat.png", "--json", *trust))["files"]
    assert (found["manifest"]["valid"], found["manifest"]["trusted"]) == (True, True)


def use_comfyui(environment: Environment, tmp_path: Path) -> None:
    with FakeComfyUI() as comfyui:
        found = json.loads(environment.run("umrgen", "engine", "check", "--model", comfyui.url, "--json"))
    assert found["engine"]["name"] == "comfyui"


def use_postgres(environment: Environment, tmp_path: Path) -> None:
    databases = shared_databases()
    ledger = ("--ledger", databases.create(), "--state", str(tmp_path / "state"))
    key = json.loads(environment.run("umrgen", "keys", "create", "--name", "first", "--json", *ledger))
    (listed,) = json.loads(environment.run("umrgen", "keys", "list", "--json", *ledger))["keys"]
    assert listed["id"] == key["id"]


def use_s3(environment: Environment, tmp_path: Path) -> None:
    s3 = shared_s3()
    running = InstalledServer(environment, UMRGEN_BLOBS=f"s3://images/{new_prefix()}", **s3.environment).start()
    try:
        with running.http() as http:
            job_id = submit(http)
        place = {"UMRGEN_BASE_URL": running.url, "UMRGEN_API_KEY": running.key}
        environment.run("umrgen", "fetch", job_id, "-o", "boat.png", **place)
        assert verify((environment.folder / "boat.png").read_bytes()).width == 512
    finally:
        assert running.stop() == 0


def use_ray(environment: Environment, tmp_path: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: make ray")
    environment.run("python", "-c", "from umrgen.server.executors.ray.actor import ENGINES_IN_RAY")


def use_diffusers(environment: Environment, tmp_path: Path) -> None:
    if find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed: make torch")
    import tiny_pipelines

    model = tiny_pipelines.save("klein", tmp_path / "klein")
    found = json.loads(environment.run("umrgen", "engine", "check", "--model", str(model), "--json", timeout=250))
    assert (found["engine"]["name"], found["image"]["width"]) == ("diffusers", 512)


Use = Callable[[Environment, Path], None]
USES: dict[str, Use] = {
    "": use_base,
    "server": use_server,
    "mcp": use_mcp,
    "c2pa": use_c2pa,
    "comfyui": use_comfyui,
    "diffusers": use_diffusers,
    "postgres": use_postgres,
    "ray": use_ray,
    "s3": use_s3,
}
"""A test of the main function of the base installation, and of each extra."""
WITH_SERVER = ("comfyui", "diffusers", "postgres", "ray", "s3")
"""Extras of the server: documented as `umrgen[server,EXTRA]`."""
SERVER_FILES = ("umrgen.service", "umrgen-user.service", "umrgen.toml", "policy-words.txt")
"""The files of deploy/ that commands print or install."""
BEFORE = {"diffusers": ["torch==2.13.0"]}
"""Installed first: a plain torch would bring the packages of an accelerator."""


def test_each_extra_has_a_test(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == set(USES) - {""}


@pytest.mark.parametrize("extra", USES)
def test_an_installed_wheel_works(wheel: Path, extra: str, tmp_path: Path) -> None:
    extras = f"server,{extra}" if extra in WITH_SERVER else extra
    environment = Environment(tmp_path, f"{wheel}[{extras}]" if extra else str(wheel), BEFORE.get(extra, []))
    USES[extra](environment, tmp_path)


def test_the_metadata_has_absolute_links_and_the_supported_versions(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 15
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert {url.split(", ")[0] for url in metadata.get_all("Project-URL", [])} >= {"Homepage", "Source", "Issues"}
    assert all(url.split(", ")[1].startswith("https://") for url in metadata.get_all("Project-URL", []))
    versions = [name.rpartition(" ")[2] for name in metadata.get_all("Classifier", []) if ":: Python :: 3." in name]
    assert versions == ["3.11", "3.12", "3.13"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_wheel_contains_the_package_with_its_data_files_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    server_files = {f"umrgen/server/deploy/{name}" for name in SERVER_FILES}
    assert {"umrgen/py.typed", "umrgen/server/studio/page/index.html", *server_files} <= names
    assert [name for name in names if not name.startswith(("umrgen/", "umrgen-"))] == []
