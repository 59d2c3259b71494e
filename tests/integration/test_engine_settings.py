"""The settings of engines: names, options and devices."""

from pathlib import Path

import pytest

from support import ServerProcess, cli, finish, server, submit, until

TESTS = str(Path(__file__).parents[1])


def test_one_job_runs_on_each_device(state: Path, tmp_path: Path) -> None:
    """The engine waits until three processes, one for each device, draw concurrently."""
    options = ("--engine-option", f"folder={tmp_path / 'inside'}", "--engine-option", "count=3")
    arguments = ("--engine", "fake_engines:MeetingEngine", "--devices", "3", *options)
    with server(state, *arguments, PYTHONPATH=TESTS) as running, running.http() as http:
        jobs = [submit(http) for _ in range(3)]
        assert [finish(http, job)["state"] for job in jobs] == ["completed"] * 3
        devices = {path.name.partition("-")[0] for path in (tmp_path / "inside").iterdir()}
        assert devices == {"0", "1", "2"}


def test_a_job_may_have_several_images(state: Path) -> None:
    arguments = ("--engine", "fake_engines:FakeEngine")
    with server(state, *arguments, PYTHONPATH=TESTS) as running, running.http() as http:
        done = finish(http, submit(http, "several"))
        images = done["results"]["images"]
        assert [(image["width"], image["height"], image["media_type"]) for image in images] == [
            (512, 512, "image/png"),
            (640, 400, "image/jpeg"),
            (512, 512, "image/png"),
        ]
        for image in images:
            response = http.get(image["url"])
            assert (response.headers["content-type"], len(response.content)) == (image["media_type"], image["bytes"])


def test_a_remote_engine_draws_fails_and_is_cancelled(state: Path) -> None:
    arguments = ("--engine", "fake_engines:FakeRemoteEngine", "--engine-option", "capacity=2")
    with server(state, *arguments, PYTHONPATH=TESTS) as running, running.http() as http:
        waiting = [submit(http, "wait") for _ in range(2)]
        for job in waiting:
            until(lambda job=job: http.get(f"/api/v1/status/{job}").json()["state"] == "running")  # type: ignore[misc]
        for job in waiting:
            assert http.post(f"/api/v1/cancel/{job}").json()["error_code"] == "cancelled"
        assert finish(http, submit(http, "one"))["state"] == "completed"
        assert finish(http, submit(http, "refuse"))["error"] == "this prompt is refused"


def test_engine_options_are_read_from_the_settings_file(state: Path, tmp_path: Path) -> None:
    config = tmp_path / "umrgen.toml"
    config.write_text(
        f'''
        devices = 2
        [engine]
        name = "fake_engines:MeetingEngine"
        [engine."fake_engines:MeetingEngine"]
        folder = "{tmp_path / "inside"}"
        count = 99
        [engine.procedural]
        step_delay = 1.0
        '''
    )
    arguments = ("--config", str(config), "--engine-option", "count=2")  # the flag overrides the file
    with server(state, *arguments, PYTHONPATH=TESTS) as running, running.http() as http:
        jobs = [submit(http) for _ in range(2)]
        assert [finish(http, job)["state"] for job in jobs] == ["completed"] * 2


@pytest.mark.parametrize(
    ("engine", "option", "message"),
    [
        ("nope", "a=1", "there is no engine 'nope'; there are: comfyui, diffusers, procedural, sdcpp"),
        ("no_such_module:Engine", "a=1", "cannot be imported"),
        ("procedural", "colour=red", "has no option 'colour'; its options: step_delay"),
        ("fake_engines:FakeEngine", "colour=red", "has no option 'colour'; it has no options"),
        ("procedural", "step_delay=soon", "refuses its options: step_delay must be 0 to 3600"),
        ("fake_engines:MeetingEngine", "count=2", "needs the option 'folder'"),
        ("diffusers", "model=no/such/model", "there is no model 'no/such/model'"),
        ("fake_engines:FakeRemoteEngine", "capacity=-1", "refuses its options: capacity must be 0 or more"),
    ],
)
def test_a_wrong_engine_or_option_is_refused_before_the_start(
    state: Path, engine: str, option: str, message: str
) -> None:
    arguments = ("--state", str(state), "--port", "0", "--engine", engine, "--engine-option", option)
    refused = cli("serve", *arguments, PYTHONPATH=TESTS)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_submits_are_refused_with_the_reason_why_an_engine_does_not_load(state: Path) -> None:
    running = ServerProcess(state, "--engine", "fake_engines:UnloadableEngine", PYTHONPATH=TESTS)
    running.launch()
    try:
        with running.http() as http:
            until(lambda: http.post("/api/v1/generate", json={"prompt": "a boat"}).status_code == 503)
            refused = http.post("/api/v1/generate", json={"prompt": "a boat"}).json()
            assert refused["code"] == "engine_unavailable"
            assert "it has no weights" in refused["detail"]
            assert http.get("/readyz").status_code == 503
    finally:
        running.stop()
