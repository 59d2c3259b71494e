"""A ledger that was lost, or an older one that was put back: no image is deleted, and `umrgen ledger adopt`."""

import json
import shutil
from pathlib import Path

import httpx2
import numpy as np

from support import cli, finish, server, submit
from umrgen.server.png import encode_png


def files(state: Path) -> set[str]:
    return {path.name for path in (state / "outputs").glob("sid_*/*")}


def remove_ledger(state: Path) -> None:
    for path in state.glob("ledger.sqlite3*"):
        path.unlink()


def adopt(state: Path) -> dict[str, object]:
    done = cli("ledger", "adopt", "--state", str(state), "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


def test_images_of_a_lost_ledger_are_kept_and_adopted(state: Path) -> None:
    with server(state) as running, running.http() as http:
        drawn = [finish(http, submit(http, f"a boat {number}", seed=number)) for number in range(3)]
    before = files(state)
    for lose in (remove_ledger, lambda state: (remove_ledger(state), (state / "ledger.sqlite3").touch())):
        lose(state)
        with server(state) as running:
            assert "umrgen ledger adopt" in running.log()
        assert files(state) == before
    foreign = state / "outputs" / "sid_other" / "umrgen_1_foreign.png"
    foreign.parent.mkdir()
    foreign.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    report = adopt(state)
    images = {name for name in before if not name.endswith(".thumb.webp")}
    assert set(report["adopted"]) == images  # type: ignore[call-overload]
    assert len(images) == 3
    assert report["refused"] == {foreign.name: "it has no provenance of an UMRGEN server"}
    assert adopt(state)["known"] == 3, "a second time changes nothing"
    session = drawn[0]["image_url"].split("/")[2]
    key = json.loads(cli("keys", "create", "--session", session, "--state", str(state), "--json").stdout)["key"]
    with server(state) as running, running.http(Authorization=f"Bearer {key}") as http:
        for number, job in enumerate(drawn):
            again = http.get(f"/api/v1/status/{job['job_id']}").json()
            assert (again["state"], again["seed"], again["image_url"]) == ("completed", number, job["image_url"])
            assert http.get(job["image_url"]).status_code == 200
        prompts = {job["prompt"] for job in http.get("/api/v1/jobs").json()["jobs"]}
        assert prompts == {"a boat 0", "a boat 1", "a boat 2"}
    assert cli("ledger", "check", "--state", str(state)).returncode == 0


def test_an_older_ledger_deletes_nothing(state: Path, tmp_path: Path) -> None:
    """Its job was queued then: the image of that job was stored later."""
    with server(state, "--step-delay", "0.5") as running, running.http() as http:
        finish(http, submit(http))
        later = submit(http, steps=4, seed=5)
        made = cli("ledger", "backup", str(tmp_path / "backup"), "--state", str(state))
        assert made.returncode == 0
        done = finish(http, later)
        key = running.key
    before = files(state)
    remove_ledger(state)
    shutil.copy(tmp_path / "backup", state / "ledger.sqlite3")
    report = adopt(state)
    assert report["adopted"] == [done["results"]["images"][0]["filename"]]
    with server(state, "--retain-days", "0.01") as running:
        assert "older than the one" not in running.log(), "the ledger was adopted"
        running.key = key
        with running.http() as http:
            assert http.get(f"/api/v1/status/{later}").json()["image_url"] == done["image_url"]
    assert files(state) == before


def test_an_older_ledger_is_recognized(state: Path, tmp_path: Path) -> None:
    with server(state) as running, running.http() as http:
        finish(http, submit(http))
        assert cli("ledger", "backup", str(tmp_path / "backup"), "--state", str(state)).returncode == 0
        finish(http, submit(http))
    before = files(state)
    remove_ledger(state)
    shutil.copy(tmp_path / "backup", state / "ledger.sqlite3")
    for _ in range(2):
        with server(state, "--retain-days", "0.000001") as running:
            assert "older than the one that was used last" in running.log()
            assert httpx2.get(f"{running.url}/readyz").status_code == 200
        assert files(state) == before
