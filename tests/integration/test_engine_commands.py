"""`umrgen engine` and `umrgen bench` with a real server and a real engine."""

import json
import os
from pathlib import Path

from support import cli, server, until
from umrgen.image_files import verify
from umrgen.server.state import own_state, server_pid

TESTS = str(Path(__file__).parents[1])


def test_check_draws_an_image_and_describes_the_engine(tmp_path: Path) -> None:
    run = cli("engine", "check", "--engine", "procedural", "-o", str(tmp_path / "image.png"))
    assert run.returncode == 0, run.stderr
    assert verify((tmp_path / "image.png").read_bytes()).width == 512
    for part in ("procedural 1", "previews, references, negative", "1 to 50, default 4", "512 × 512 image/png"):
        assert part in run.stdout


def test_check_prints_json(tmp_path: Path) -> None:
    run = cli("engine", "check", "--engine", "fake_engines:FakeEngine", "--json", PYTHONPATH=TESTS)
    found = json.loads(run.stdout)
    assert (found["engine"]["default_steps"], found["image"]["width"], run.stderr) == (6, 512, "")


def test_the_error_of_an_engine_that_does_not_load_is_printed_at_once() -> None:
    run = cli("engine", "check", "--engine", "fake_engines:UnloadableEngine", PYTHONPATH=TESTS)
    assert (run.returncode, run.stdout) == (1, "")
    assert "it has no weights: run the command that fetches them" in run.stderr


def test_release_without_a_server_says_so(tmp_path: Path) -> None:
    run = cli("engine", "release", "--state", str(tmp_path))
    assert run.returncode == 1
    assert f"no server runs on the state folder {tmp_path}" in run.stderr


def test_the_lock_file_has_the_process_of_the_server(tmp_path: Path) -> None:
    assert server_pid(tmp_path) is None
    with own_state(tmp_path):
        assert server_pid(tmp_path) == os.getpid()
    assert server_pid(tmp_path) is None


def test_release_ends_the_engine_and_the_next_job_starts_it(state: Path) -> None:
    with server(state, "--on-unload", f"touch {state / 'unloaded'}") as running, running.http() as http:
        until(lambda: bool(running.engine_pids()))
        assert cli("engine", "release", "--state", str(state)).returncode == 0
        until(lambda: not running.engine_pids() and (state / "unloaded").exists())
        assert http.get("/readyz").status_code == 200
        assert http.get("/api/v1/capabilities").json()["engine"]["state"] == "unloaded"
        doctor = cli("doctor", UMRGEN_BASE_URL=running.url, UMRGEN_API_KEY=running.key)
        assert "engine procedural (unloaded)" in doctor.stdout
        bench = cli(
            *(
                "bench",
                "--callers",
                "2",
                "--images",
                "4",
                "--width",
                "512",
                "--height",
                "512",
                "--steps",
                "1",
                "--json",
            ),
            UMRGEN_BASE_URL=running.url,
            UMRGEN_API_KEY=running.key,
        )
        figures = json.loads(bench.stdout)
        assert (figures["images"], figures["failures"], figures["callers"]) == (4, {}, 2)
        assert figures["time_to_image"]["p50"] > 0
        assert figures["queue_time"]["p95"] >= figures["queue_time"]["p50"]
        assert running.engine_pids()
        assert http.get("/api/v1/capabilities").json()["engine"]["state"] == "ready"


def test_bench_counts_failures(state: Path) -> None:
    with server(state, "--engine", "fake_engines:FakeEngine", PYTHONPATH=TESTS) as running:
        run = cli(
            *("bench", "--images", "2", "--width", "500"), UMRGEN_BASE_URL=running.url, UMRGEN_API_KEY=running.key
        )
    assert "0 images by 1 callers" in run.stdout
    assert "2 failed: invalid_request" in run.stdout


def test_plan_names_the_engine_and_what_is_known_of_a_model_that_is_not_here() -> None:
    run = cli("engine", "plan", "owner/Z-Image-Turbo", "--json", HF_HOME="/does/not/exist")
    rows = json.loads(run.stdout)
    assert (rows["engine"], rows["family"], rows["steps"]) == ("diffusers", "Z-Image-Turbo", 8)
    assert "umrgen engine pull owner/Z-Image-Turbo" in rows["not here"]
    other = cli("engine", "plan", "http://127.0.0.1:1")
    assert "engine       comfyui" in other.stdout
    unknown = cli("engine", "plan", "owner/some-model", HF_HOME="/does/not/exist")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "umrgen engine pull owner/some-model" in unknown.stderr


def test_pull_takes_a_name_of_the_hub() -> None:
    run = cli("engine", "pull", "http://127.0.0.1:1")
    assert run.returncode == 1
    assert "Give a name as owner/name" in run.stderr


def test_the_server_prints_which_engine_a_model_chose_and_why(state: Path) -> None:
    with server(state, "--model", "procedural") as running, running.http() as http:
        assert "the engine is procedural: it draws without a model" in running.log()
        assert http.get("/api/v1/capabilities").json()["engine"]["name"] == "procedural"
