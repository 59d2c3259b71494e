"""The files of deploy/: each is accepted by its validator, and the image's steps make a server that starts."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dockerfile import Build, context_files
from s3_server import free_ports
from support import clean_environment, finish, server, submit, tied, until
from umrgen.server.settings import Settings, settings_table
from umrgen.server.signing.trial import write_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VALIDATORS = ROOT / ".venv-deploy" / "bin"
COMPOSE = ("compose.yaml", "compose.scale.yaml")
MANIFESTS = ("umrgen.yaml", "ray.yaml")


def validator(name: str) -> str:
    """Return the path of a validator; skip the test if it is not installed."""
    program = VALIDATORS / name
    if not program.exists():
        pytest.skip(f"{name} is not installed: make .venv-deploy/clients.stamp")
    return str(program)


def debian(name: str) -> str:
    """Return the path of a program of Debian; skip the test if it is not installed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def accept(*command: str | Path, **environment: str) -> str:
    """Run a validator, which must accept; return its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_validators_refuse_wrong_files(tmp_path: Path) -> None:
    """A validator that accepts everything would be no test."""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(yaml.safe_dump({"services": {"umrgen": {"imagine": "umrgen"}}}))
    with pytest.raises(AssertionError, match="imagine"):
        accept(validator("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", wrong)
    manifest = DEPLOY / "kubernetes" / "umrgen.yaml"
    wrong.write_text(manifest.read_text().replace("replicas: 2", "replicas: two"))
    with pytest.raises(AssertionError, match="two"):
        accept(validator("kubernetes-validate"), "--strict", wrong)


class TestCompose:
    @pytest.mark.parametrize("name", COMPOSE)
    def test_the_schema_of_compose_accepts_it(self, name: str) -> None:
        accept(validator("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / name)

    @pytest.mark.parametrize("name", COMPOSE)
    def test_the_files_and_volumes_exist(self, name: str) -> None:
        described = yaml.safe_load((DEPLOY / name).read_text())
        mounts = [
            mount.split(":") for service in described["services"].values() for mount in service.get("volumes", [])
        ]
        assert mounts
        for source, *_ in mounts:
            known = (DEPLOY / source).is_file() if source.startswith(".") else source in described["volumes"]
            assert known, source

    @pytest.mark.parametrize("name", COMPOSE)
    def test_every_image_has_a_version(self, name: str) -> None:
        services = yaml.safe_load((DEPLOY / name).read_text())["services"].values()
        foreign = {service["image"] for service in services} - {"umrgen"}
        assert foreign
        assert [image for image in foreign if ":" not in image or image.endswith(":latest")] == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_the_manifest(name: str) -> None:
    accept(validator("kubernetes-validate"), "--strict", DEPLOY / "kubernetes" / name)


def ray_cluster() -> dict[str, Any]:
    manifest = (DEPLOY / "kubernetes" / "ray.yaml").read_text()
    (cluster,) = [item for item in yaml.safe_load_all(manifest) if item["kind"] == "RayCluster"]
    spec: dict[str, Any] = cluster["spec"]
    return spec


def test_kubernetes_accepts_the_pods_of_the_ray_cluster(tmp_path: Path) -> None:
    """Its schemas have no RayCluster: that is an extension of KubeRay."""
    spec = ray_cluster()
    for number, group in enumerate([spec["headGroupSpec"], *spec["workerGroupSpecs"]]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, **group["template"]}
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(pod))
        accept(validator("kubernetes-validate"), "--strict", tmp_path / f"{number}.yaml")


def test_the_ray_cluster_has_a_token() -> None:
    assert ray_cluster()["authOptions"] == {"mode": "token"}


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the variables of each container of this project in deploy/."""
    for name in COMPOSE:
        for service, described in yaml.safe_load((DEPLOY / name).read_text())["services"].items():
            if described["image"] == "umrgen":
                yield f"{name}: {service}", described["environment"]
    for manifest in MANIFESTS:
        for item in yaml.safe_load_all((DEPLOY / "kubernetes" / manifest).read_text()):
            if item["kind"] == "ConfigMap":
                yield manifest, item["data"]
    (_, sidecar) = ray_cluster()["headGroupSpec"]["template"]["spec"]["containers"]
    yield "ray.yaml: sidecar", {variable["name"]: variable.get("value", "") for variable in sidecar["env"]}


def test_every_variable_is_a_setting() -> None:
    known = {setting.variable for setting in settings_table()}
    found = dict(environments())
    assert len(found) >= 6
    for place, variables in found.items():
        assert {name for name in variables if name.startswith("UMRGEN_")} <= known, place
        Settings.load({}, {name: value for name, value in variables.items() if "$" not in value})


class TestProxies:
    @pytest.mark.parametrize("name", ["Caddyfile", "Caddyfile.scale"])
    def test_caddy_accepts_its_configuration(self, name: str, tmp_path: Path) -> None:
        places = {"UMRGEN_DOMAIN": "images.example.org", "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
        accept(debian("caddy"), "validate", "--adapter", "caddyfile", "--config", DEPLOY / name, **places)


@pytest.mark.parametrize("units", [("umrgen-backup.service", "umrgen-backup.timer"), ("umrgen-user.service",)])
def test_systemd_accepts_the_units(units: tuple[str, ...], tmp_path: Path) -> None:
    for name in units:
        text = (DEPLOY / name).read_text().replace("/opt/umrgen/bin/umrgen", shutil.which("true") or "")
        (tmp_path / name).write_text(text)
    user = ("--user",) if "user" in units[0] else ()
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    said = accept(
        debian("systemd-analyze"), *user, "verify", "--man=no", *(tmp_path / name for name in units), **runtime
    )
    assert [line for line in said.splitlines() if any(name in line for name in units)] == []


def panels() -> list[dict[str, Any]]:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]] + [rule["expr"] for rule in rules()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each metric of a real server that signs, and has drawn one image, by the metric's name."""
    folder = tmp_path_factory.mktemp("server")
    write_trial(folder / "trial")
    signing = [f"--signing-{part}={folder / 'trial' / part}.pem" for part in ("certificate", "key")]
    labels: dict[str, set[str]] = {}
    with server(folder / "state", *signing) as running, running.http() as http:
        finish(http, submit(http))
        for family in text_string_to_metric_families(http.get("/metrics").text):
            labels[family.name] = {label for sample in family.samples for label in sample.labels}
    return labels


def family_of(name: str, exported: dict[str, set[str]]) -> str | None:
    """Return the metric of which `name` is a series."""
    endings = ("", "_total", "_bucket", "_count", "_sum", "_info")
    return next((metric for metric in exported if name in {metric + ending for ending in endings}), None)


class TestMonitoring:
    def test_the_dashboard_and_the_alerts_use_metrics_that_exist(self, exported: dict[str, set[str]]) -> None:
        used = {name for text in expressions() for name in re.findall(r"\b(?:umrgen|process)_\w+", text)}
        assert len(used) > 25
        assert {name for name in used if family_of(name, exported) is None} == set()

    def test_every_metric_is_on_the_dashboard_or_in_an_alert(self, exported: dict[str, set[str]]) -> None:
        text = " ".join(expressions())
        own = {name for name in exported if name.startswith("umrgen_") and not name.endswith("_created")}
        assert {name for name in own if name not in text} == set()

    def test_the_labels_exist(self, exported: dict[str, set[str]]) -> None:
        known = set().union(*exported.values()) | {"instance", "job", "result"}
        used = {
            label for text in expressions() for by in re.findall(r"by \(([^)]+)\)", text) for label in by.split(", ")
        }
        assert {"engine", "key", "status"} <= used <= known

    def test_prometheus_accepts_the_expressions_of_the_dashboard(self, tmp_path: Path) -> None:
        found = [target["expr"] for panel in panels() for target in panel["targets"]]
        recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(found)]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
        said = accept(debian("promtool"), "check", "rules", tmp_path / "rules.yml")
        assert f"{len(found)} rules found" in said

    def test_prometheus_accepts_its_configuration_with_the_alerts(self, tmp_path: Path) -> None:
        config = (DEPLOY / "prometheus.yml").read_text().replace("/run/secrets/metrics_token", str(tmp_path / "token"))
        (tmp_path / "token").write_text("token")
        (tmp_path / "prometheus.yml").write_text(config)
        shutil.copy(DEPLOY / "alerts.yml", tmp_path)
        accept(debian("promtool"), "check", "config", tmp_path / "prometheus.yml")

    def test_the_alerts_fire_on_the_values_that_they_are_for(self, tmp_path: Path) -> None:
        accept(debian("promtool"), "test", "rules", write_cases(tmp_path))

    def test_each_panel_and_alert_is_explained(self) -> None:
        page = (ROOT / "docs" / "monitoring.md").read_text()
        named = [panel["title"] for panel in panels()] + [rule["alert"] for rule in rules()]
        assert len(named) > 30
        assert [name for name in named if name not in page] == []


HEALTHY = {
    'up{job="umrgen", instance="a"}': "1x30",
    'umrgen_ready{instance="a"}': "1x30",
    "umrgen_queue_age_seconds": "20x30",
    "umrgen_jobs_running": "1x30",
    'umrgen_jobs_ended_total{state="completed"}': "0+60x30",
    'umrgen_jobs_ended_total{state="failed", error_code="engine_crashed"}': "0+1x30",
    'umrgen_requests_total{status="200"}': "0+60x30",
    'umrgen_requests_total{status="503"}': "0+1x30",
    'umrgen_disk_free_bytes{instance="a"}': "9e9x30",
    'umrgen_disk_reserve_bytes{instance="a"}': "5e8x30",
    "umrgen_webhooks_pending": "3x30",
    'process_start_time_seconds{job="umrgen", instance="a"}': "1000x30",
}
"""Series of a server without a failure, a value a minute."""
CASES: dict[str, dict[str, str]] = {
    "": {},
    "UmrgenDown": {'up{job="umrgen", instance="a"}': "0x30"},
    "UmrgenNotReady": {'umrgen_ready{instance="a"}': "0x30"},
    "UmrgenQueueStuck": {"umrgen_queue_age_seconds": "400x30", "umrgen_jobs_running": "0x30"},
    "UmrgenQueueLong": {"umrgen_queue_age_seconds": "2000x30"},
    "UmrgenJobsFail": {'umrgen_jobs_ended_total{state="failed", error_code="engine_crashed"}': "0+10x30"},
    "UmrgenServerErrors": {'umrgen_requests_total{status="503"}': "0+5x30"},
    "UmrgenDiskLow": {'umrgen_disk_free_bytes{instance="a"}': "1e9x30"},
    "UmrgenRestarts": {'process_start_time_seconds{job="umrgen", instance="a"}': "1000+60x30"},
}
"""The series that differ, by the one alert that then fires."""


def write_cases(folder: Path) -> Path:
    """Write a file for `promtool test rules`: after half an hour of each case, exactly one alert fires."""
    shutil.copy(DEPLOY / "alerts.yml", folder)
    tests = []
    for expected, changes in CASES.items():
        series = [{"series": name, "values": values} for name, values in (HEALTHY | changes).items()]
        firing = "count by (alertname) (ALERTS{alertstate='firing'})"
        samples = [{"labels": f'{{alertname="{expected}"}}', "value": 1}] if expected else []
        checks = [{"expr": firing, "eval_time": "29m", "exp_samples": samples}]
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": checks})
    cases = folder / "cases.yml"
    cases.write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}))
    return cases


class TestImage:
    """The steps of the Dockerfile, made in a folder: there is no Docker on a machine for tests."""

    def test_hadolint_accepts_the_dockerfile(self) -> None:
        accept(validator("hadolint"), DEPLOY / "Dockerfile")

    def test_the_steps_make_a_server_that_starts_as_its_header_documents(self, tmp_path: Path) -> None:
        build = Build(ROOT, DEPLOY / "Dockerfile", tmp_path)
        assert build.user.isdigit()
        assert build.user != "0"
        assert all(base.startswith("python:3.12.") for base in build.bases)
        port = str(free_ports(1)[0])
        plain = clean_environment(**build.environment)
        plain.pop("PYTHONPATH", None)
        without = subprocess.run(build.command, env=plain, capture_output=True, text=True, timeout=60)
        assert (without.returncode, "there is no API key yet" in without.stderr) == (1, True)
        create = ["umrgen", "keys", "create", "--name", "first"]
        key = subprocess.run(create, env=plain, capture_output=True, text=True, timeout=60).stdout.strip()
        here = plain | {"UMRGEN_HOST": "127.0.0.1", "UMRGEN_PORT": port}
        assert self.healthy(build, here) == 1
        running = subprocess.Popen(tied(*build.command), env=here, stderr=subprocess.DEVNULL)
        try:
            until(lambda: self.healthy(build, here) == 0)
            headers = {"Authorization": f"Bearer {key}"}
            found = httpx2.get(f"http://127.0.0.1:{port}/api/v1/capabilities", headers=headers)
            assert found.status_code == 200
        finally:
            running.terminate()
            assert running.wait(30) == 0
        assert (Path(build.environment["UMRGEN_STATE"]) / "ledger.sqlite3").exists()

    def healthy(self, build: Build, environment: dict[str, str]) -> int:
        program = shutil.which(build.health[0], path=environment["PATH"])
        assert program
        return subprocess.run([program, *build.health[1:]], env=environment, capture_output=True, timeout=60).returncode

    def test_no_key_or_state_reaches_the_builder(self, tmp_path: Path) -> None:
        for name in (".env", "deploy/.env", "umrgen-state/ledger.sqlite3", "secret.pem"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("secret")
        for name in ("pyproject.toml", "src/umrgen/cli.py", "src/umrgen/__pycache__/cli.pyc"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("code")
        shutil.copy(ROOT / ".dockerignore", tmp_path)
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        assert {str(file) for file in context_files(tmp_path)} == {"pyproject.toml", "src/umrgen/cli.py"}
