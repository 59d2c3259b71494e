"""Provenance from the server to the commands: show, verify, generate --like."""

import json
from io import BytesIO
from pathlib import Path

from PIL import Image

import umrgen
from support import ServerProcess, cli, server
from umrgen import Client


def environment(running: ServerProcess) -> dict[str, str]:
    return {"UMRGEN_BASE_URL": running.url, "UMRGEN_API_KEY": running.key}


def draw(running: ServerProcess, to: Path, **request: object) -> None:
    with Client(running.url, running.key, journal=None) as client:
        client.generate("a red boat", to, width=512, height=512, steps=1, **request)  # type: ignore[arg-type]


def test_a_file_states_how_it_was_made(shared_server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "boat.png"
    draw(shared_server, file, seed=11, negative="clouds")
    record = umrgen.verify(file).record
    assert record is not None
    assert (record.prompt, record.negative, record.seed, record.engine) == ("a red boat", "clouds", 11, "procedural")
    assert record.created_at
    shown = cli("show", str(file))
    assert "prompt     a red boat" in shown.stdout
    verified = cli("verify", str(file), "--json")
    assert (verified.returncode, json.loads(verified.stdout)["files"][0]["mark"]) == (0, "marked")


def test_the_exit_code_of_verify_is_that_of_the_worst_file(shared_server: ServerProcess, tmp_path: Path) -> None:
    marked, changed, plain = (tmp_path / f"{name}.png" for name in ("marked", "changed", "plain"))
    draw(shared_server, marked)
    with Image.open(marked) as image:
        xmp = image.info["xmp"]
        image.rotate(90).save(plain)
        image.rotate(90).convert("RGB").save(tmp_path / "changed.jpg", xmp=xmp)
    changed = tmp_path / "changed.jpg"
    for files, code in (([marked], 0), ([marked, changed], 8), ([marked, changed, plain], 9)):
        assert cli("verify", *map(str, files)).returncode == code
    assert "proves nothing" in cli("verify", str(plain)).stdout
    assert "does not say how it was made" in cli("show", str(plain)).stderr


def test_a_configured_server_is_asked_whether_it_made_the_image(shared_server: ServerProcess, tmp_path: Path) -> None:
    made, copy, text = tmp_path / "made.png", tmp_path / "copy.jpg", tmp_path / "notes.txt"
    draw(shared_server, made)
    with Image.open(made) as image:
        image.convert("RGB").resize((300, 300)).save(copy, quality=60)
    text.write_text("no image")
    asked = cli("verify", str(made), str(copy), str(text), "--json", **environment(shared_server))
    assert asked.returncode == 9, "the exit code is that of the marks"
    exact, similar, refused = (one["server"] for one in json.loads(asked.stdout)["files"])
    assert (exact["made_here"], exact["distance"], exact["manifest"]["present"]) == ("exact", 0, False)
    assert (similar["made_here"], similar["job_id"]) == ("similar", exact["job_id"])
    assert "not a PNG, JPEG or WebP image" in refused["error"]
    shown = cli("verify", str(copy), **environment(shared_server)).stdout
    assert "No mark was found." in shown
    assert f"by the job {exact['job_id']}." in shown
    with Client(shared_server.url, shared_server.key, journal=None) as client:
        found = client.verify(made)
    assert (found.made_here, found.engine, found.job_id) == ("exact", "procedural", exact["job_id"])
    assert found.created_at is not None


def test_verify_sends_nothing_offline(shared_server: ServerProcess, tmp_path: Path) -> None:
    made = tmp_path / "made.png"
    draw(shared_server, made)
    nowhere = {"UMRGEN_BASE_URL": "http://127.0.0.1:1", "UMRGEN_API_KEY": "umr_x"}
    offline = cli("verify", str(made), "--offline", "--json", **nowhere)
    assert (offline.returncode, json.loads(offline.stdout)["files"][0]["server"]) == (0, None)
    assert cli("verify", str(made), "--timeout", "1", **nowhere).returncode == 7
    assert cli("verify", str(made), "--offline", "--base-url", shared_server.url).returncode == 2


def test_an_image_is_drawn_again_from_its_file(shared_server: ServerProcess, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first.png", "again.png", "other.jpg"))
    draw(shared_server, first, seed=5)
    env = environment(shared_server)
    assert cli("generate", "--like", str(first), "-o", str(again), **env).returncode == 0
    changed = cli("generate", "a blue boat", "--like", str(first), "--seed", "6", "-o", str(other), **env)
    assert changed.returncode == 0
    with Image.open(first) as one, Image.open(again) as two:
        assert one.tobytes() == two.tobytes()
    record = umrgen.verify(other).record
    assert record is not None
    assert (record.prompt, record.seed, record.steps) == ("a blue boat", 6, 1)


def test_what_the_server_cannot_draw_in_the_same_way_is_printed(shared_server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "foreign.png"
    record = umrgen.Provenance(
        "trainedAlgorithmicMedia",
        engine="diffusers",
        model="some-model",
        prompt="a boat",
        seed=1,
        steps=1,
        cfg=3.0,
        width=512,
        height=512,
        loras=(("ink", 0.5),),
        references=("ab" * 32,),
    )
    from umrgen.provenance import mark

    png = BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    file.write_bytes(mark(png.getvalue(), record))
    run = cli("generate", "--like", str(file), "-o", str(tmp_path / "drawn.png"), **environment(shared_server))
    assert run.returncode == 0
    for part in (
        "the engine is procedural; the file was made by diffusers",
        "does not have the model some-model",
        "does not have the LoRA ink",
        "1 reference images, which it does not contain",
    ):
        assert part in run.stderr


def test_without_prompts_in_files(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "boat.png"
    with server(state, "--provenance-prompt", "none") as running:
        draw(running, file, seed=3)
        with running.http() as http:
            assert http.get("/api/v1/jobs").json()["jobs"][0]["prompt"] == "a red boat"
    assert b"a red boat" not in file.read_bytes()
    record = umrgen.verify(file).record
    assert record is not None
    assert (record.prompt, record.seed) == (None, 3)
    assert "the file does not have its prompt" in cli("generate", "--like", str(file)).stderr
    assert "(not in the file)" in cli("show", str(file)).stdout


def test_a_file_without_a_record_needs_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(file)
    run = cli("generate", "--like", str(file))
    assert run.returncode == 1
    assert "Give the prompt and the settings yourself" in run.stderr
    assert cli("generate").returncode == 2
