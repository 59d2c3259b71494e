"""The engine of docs/extending.md works, and the paths on the page exist."""

import re
from pathlib import Path

from support import finish, server, submit
from umrgen.image_files import verify

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_engine_of_the_page(state: Path, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code
    (tmp_path / "gradient.py").write_text(code[1])
    command = re.search(r"umrgen serve (--engine .+)", PAGE.read_text())
    assert command
    with server(state, *command[1].split(), PYTHONPATH=str(tmp_path)) as running, running.http() as http:
        done = finish(http, submit(http, seed=7))
        assert (done["state"], done["progress"]) == ("completed", {"step": 1, "total": 1})
        image = http.get(done["image_url"]).content
        assert verify(image).width == 512
        assert http.get("/api/v1/capabilities").json()["engine"]["kind"] == "procedural"


def test_the_paths_of_the_page_exist() -> None:
    for path in re.findall(r"`((?:src|tests|docs|js)/[\w./-]+)`", PAGE.read_text()):
        assert (PAGE.parents[1] / path).exists(), path
