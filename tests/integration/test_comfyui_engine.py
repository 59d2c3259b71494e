"""The ComfyUI engine against a server of each generation, and its faults."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from fake_comfyui import GENERATIONS, FakeComfyUI
from fake_comfyui.execution import NodeFailure
from fake_comfyui.workflows import LATENT, sdxl, with_reference, with_text, with_upscaler
from support import draw_task
from umrgen.image_files import verify
from umrgen.server.domain.request import Lora
from umrgen.server.engines import DrawTask, EncodedImage, EngineCrashed, EngineFailure, OutOfMemory, Phase, load_engine
from umrgen.server.engines.comfyui.prompts import prompt_uuid

QUICK = {"poll_interval": 0.05, "health_interval": 0.05, "lost_after": 0.2, "timeout": 10}
DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
TASK = draw_task("a lighthouse", steps=4)


class Reports:
    """Implements `Report`: records steps and phases."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.phases: list[Phase] = []
        self.previews: list[Any] = []

    def __call__(self, step: int, total: int, preview: Callable[[], Any] | None = None, /) -> None:
        self.steps.append((step, total))
        if preview is not None:
            self.previews.append(preview())

    def together(self, images: int, /) -> None: ...

    def phase(self, phase: Phase, /) -> None:
        self.phases.append(phase)


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "0.38")) for name in GENERATIONS])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeComfyUI]:
    with FakeComfyUI(request.param) as running:
        yield running


@pytest.fixture
def newest() -> Iterator[FakeComfyUI]:
    with FakeComfyUI("0.38") as running:
        yield running


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(graph: dict[str, Any]) -> str:
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(graph))
        return str(path)

    return write


@asynccontextmanager
async def engine_on(*fakes: FakeComfyUI, **options: Any) -> AsyncIterator[Any]:
    engine = load_engine("comfyui", QUICK | {"url": [fake.url for fake in fakes]} | options)
    await engine.load(lambda: None)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def drawing(fake: FakeComfyUI, pause: str, task: DrawTask = TASK, **options: Any) -> AsyncIterator[Any]:
    """Start a drawing that waits at the point `pause`; yield its task."""
    fake.execution.pause = pause
    async with engine_on(fake, **options) as engine:
        running = asyncio.create_task(engine.draw(task, Reports()))
        await asyncio.to_thread(fake.wait_paused)
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.to_thread(fake.resume)
            await asyncio.gather(running, return_exceptions=True)


def sizes(images: list[EncodedImage]) -> list[tuple[int | None, int | None]]:
    return [(facts.width, facts.height) for facts in (verify(image.data) for image in images)]


def sent(fake: FakeComfyUI, node: str) -> dict[str, Any]:
    """Return the inputs of a node in the last prompt."""
    inputs: dict[str, Any] = fake.execution.accepted[-1].graph[node]["inputs"]
    return inputs


async def test_a_prompt_is_drawn_with_its_steps_and_previews(fake: FakeComfyUI) -> None:
    reports = Reports()
    async with engine_on(fake, poll_interval=60) as engine:
        (image,) = await engine.draw(TASK, reports)
    assert [image.data] == list(fake.execution.files.values())
    assert reports.steps == [(step, 4) for step in range(1, 5)]
    assert {Phase.LOADING, Phase.ENCODING} <= set(reports.phases)
    assert reports.previews
    assert all(verify(preview.data).media_type == "image/jpeg" for preview in reports.previews)
    expected = prompt_uuid(TASK.job_id, 0)
    assert fake.execution.accepted[0].client_id == expected
    if fake.execution.generation != "0.3":
        assert fake.prompts == [expected]


class TestConnections:
    async def test_without_a_socket_polling_is_enough(self, fake: FakeComfyUI) -> None:
        fake.execution.refuses_sockets = True
        reports = Reports()
        async with engine_on(fake) as engine:
            assert await engine.draw(TASK, reports)
        assert reports.steps == [(step, 4) for step in range(1, 5)]
        assert reports.previews == []

    async def test_a_socket_that_is_closed_costs_nothing(self, fake: FakeComfyUI) -> None:
        async with drawing(fake, "step 2") as running:
            await asyncio.to_thread(fake.close_sockets)
            await asyncio.to_thread(fake.resume)
            assert sizes(await running) == [(512, 512)]
        assert len(fake.prompts) == 1

    async def test_a_restart_of_comfyui_fails_the_attempt_and_the_next_one_draws(self, fake: FakeComfyUI) -> None:
        fake.execution.pause = "step 2"
        async with engine_on(fake) as engine:
            running = asyncio.create_task(engine.draw(TASK, Reports()))
            await asyncio.to_thread(fake.wait_paused)
            fake.execution.pause = ""
            await asyncio.to_thread(fake.restart)
            with pytest.raises(EngineCrashed, match=r"has lost the prompt|does not respond"):
                await running
            await engine.load(lambda: None)
            assert sizes(await engine.draw(TASK, Reports())) == [(512, 512)]
        assert [prompt.client_id for prompt in fake.execution.accepted] == [prompt_uuid("ext_1", n) for n in (0, 1)]

    async def test_a_lost_response_to_a_prompt_does_not_draw_twice(self, fake: FakeComfyUI) -> None:
        fake.execution.loses_responses = 1
        async with engine_on(fake) as engine:
            assert sizes(await engine.draw(TASK, Reports())) == [(512, 512)]
        assert len(fake.prompts) == 1

    async def test_a_server_that_ends_is_given_up(self, newest: FakeComfyUI) -> None:
        newest.execution.pause = "step 2"
        async with engine_on(newest) as engine:
            running = asyncio.create_task(engine.draw(TASK, Reports()))
            await asyncio.to_thread(newest.wait_paused)
            await asyncio.to_thread(newest.stop)
            with pytest.raises(EngineCrashed, match="ComfyUI does not respond any more"):
                await running
            assert engine.capacity == 0
        newest.start = newest.stop = lambda: None  # type: ignore[method-assign]

    async def test_messages_about_other_prompts_are_ignored(
        self, newest: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        """Without a client id, ComfyUI sends the messages of a prompt to every socket."""
        reports = Reports()
        newest.execution.pause = "step 3"
        other = sdxl()
        other["3"]["inputs"]["steps"] = 4
        async with engine_on(newest, workflow=write(sdxl())) as engine:
            assert httpx2.post(f"{newest.url}/prompt", json={"prompt": other}).status_code == 200
            await asyncio.to_thread(newest.wait_paused)
            running = asyncio.create_task(engine.draw(TASK, reports))
            async with asyncio.timeout(20):
                while not newest.execution.pending:  # noqa: ASYNC110 - the state of another thread
                    await asyncio.sleep(0.01)
            assert reports.steps == []
            await asyncio.to_thread(newest.resume, "step 2")
            await asyncio.to_thread(newest.wait_paused)
            async with asyncio.timeout(20):
                while not reports.steps:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert reports.steps == [(1, 4)]
            await asyncio.to_thread(newest.resume)
            await running
        assert reports.steps == [(step, 4) for step in range(1, 5)]


class TestOnePrompt:
    """The ids of prompts follow from the job's id: no prompt is drawn twice."""

    async def test_a_running_prompt_is_found_again(self, fake: FakeComfyUI) -> None:
        async with drawing(fake, "step 2") as running, engine_on(fake) as restarted:
            again = asyncio.create_task(restarted.draw(TASK, Reports()))
            async with asyncio.timeout(20):
                while f"{prompt_uuid('ext_1', 0)}" not in fake.execution.sockets:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(fake.resume)
            first, second = await asyncio.gather(running, again)
        assert first == second
        assert len(fake.prompts) == 1

    async def test_the_images_of_a_prompt_that_has_ended_are_taken(self, fake: FakeComfyUI) -> None:
        async with engine_on(fake) as engine, engine_on(fake) as restarted:
            assert await engine.draw(TASK, Reports()) == await restarted.draw(TASK, Reports())
        assert len(fake.prompts) == 1

    async def test_after_a_failure_the_next_prompt_has_another_id(self, fake: FakeComfyUI) -> None:
        fake.execution.failures["VAEDecode"] = NodeFailure("ValueError", "bad")
        async with engine_on(fake) as engine, engine_on(fake) as restarted:
            with pytest.raises(EngineFailure):
                await engine.draw(TASK, Reports())
            fake.execution.failures.clear()
            assert await restarted.draw(TASK, Reports())
        assert [prompt.client_id for prompt in fake.execution.accepted] == [prompt_uuid("ext_1", n) for n in (0, 1)]

    async def test_a_prompt_is_searched_on_all_servers(self, newest: FakeComfyUI) -> None:
        with FakeComfyUI("0.8") as second:
            async with drawing(second, "step 2"), engine_on(newest, second) as engine:
                again = asyncio.create_task(engine.draw(TASK, Reports()))
                await asyncio.to_thread(second.resume)
                assert sizes(await again) == [(512, 512)]
        assert newest.prompts == []

    async def test_a_history_that_is_written_late_is_awaited(self, fake: FakeComfyUI) -> None:
        fake.execution.early_success = True
        async with drawing(fake, "history") as running:
            await asyncio.wait({running}, timeout=0.2)
            assert not running.done()
            await asyncio.to_thread(fake.resume)
            assert await running

    async def test_a_cached_image_that_was_deleted_is_drawn_again(self, fake: FakeComfyUI) -> None:
        async with engine_on(fake) as engine:
            await engine.draw(TASK, Reports())
            fake.delete_images()
            assert sizes(await engine.draw(replace(TASK, job_id="ext_2"), Reports())) == [(512, 512)]
        assert len(fake.prompts) == 3
        assert set(fake.execution.cached_nodes) > {"10", "11"}  # only the last node was executed again

    async def test_images_that_are_deleted_again_and_again_are_a_crash(self, newest: FakeComfyUI) -> None:
        newest.execution.missing_files = True
        async with engine_on(newest) as engine:
            with pytest.raises(EngineCrashed, match="deleted before they could be read"):
                await engine.draw(TASK, Reports())


class TestCancelling:
    async def test_a_running_prompt_stops_at_its_next_step(self, fake: FakeComfyUI) -> None:
        async with drawing(fake, "step 2") as running:
            running.cancel()
            await asyncio.to_thread(until_cancelled, fake)
            await asyncio.to_thread(fake.resume)
            with pytest.raises(asyncio.CancelledError):
                await running
        (entry,) = fake.execution.history.values()
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert all(body["prompt_id"] == fake.prompts[0] for body in fake.execution.interrupts)

    async def test_a_pending_prompt_is_removed_and_the_running_one_continues(self, fake: FakeComfyUI) -> None:
        fake.execution.pause = "step 2"
        async with engine_on(fake, url=f"{fake.url}*2") as engine:
            running = asyncio.create_task(engine.draw(TASK, Reports()))
            await asyncio.to_thread(fake.wait_paused)
            pending = asyncio.create_task(engine.draw(replace(TASK, job_id="ext_2"), Reports()))
            async with asyncio.timeout(20):
                while not fake.execution.pending:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
            assert fake.execution.interrupts == []
            await asyncio.to_thread(fake.resume)
            assert await running
        assert len(fake.execution.executed) == 1

    async def test_a_prompt_that_is_being_sent_is_cancelled(self, fake: FakeComfyUI) -> None:
        async with drawing(fake, "submit") as running:
            running.cancel()
            await asyncio.wait({running}, timeout=0.3)
            assert not running.done()  # a cancellation that arrived before the prompt would have no effect
            await asyncio.to_thread(fake.resume, "queue")
            with pytest.raises(asyncio.CancelledError):
                await running
            await asyncio.to_thread(fake.wait_paused)
            assert len(fake.prompts) == 1
        assert fake.execution.executed == []

    async def test_an_interruption_that_the_last_node_ignores_ends_with_the_prompt(self, fake: FakeComfyUI) -> None:
        async with drawing(fake, "last") as running:
            running.cancel()
            await asyncio.to_thread(until_cancelled, fake)
            assert not running.done()  # the place on the server is not free yet
            await asyncio.to_thread(fake.resume)
            with pytest.raises(asyncio.CancelledError):
                await running
        (entry,) = fake.execution.history.values()
        assert entry["status"]["status_str"] == "success"

    async def test_a_prompt_that_never_stops_is_left_to_itself(
        self, newest: FakeComfyUI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("umrgen.server.engines.comfyui.cancellation.LONGEST_WAIT", 0.1)
        async with drawing(newest, "last") as running:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    async def test_an_interruption_by_the_operator_is_a_failure(self, fake: FakeComfyUI) -> None:
        async with drawing(fake, "step 2") as running:
            assert httpx2.post(f"{fake.url}/interrupt", json={"prompt_id": fake.prompts[0]}).status_code == 200
            await asyncio.to_thread(fake.resume)
            with pytest.raises(EngineFailure, match="interrupted in ComfyUI"):
                await running


def until_cancelled(fake: FakeComfyUI) -> None:
    """Wait until the fake has got the cancellation of its running prompt."""
    from support import until

    until(lambda: fake.execution.interrupted)


class TestImages:
    async def test_an_upscaled_image_is_kept_as_it_is(self, fake: FakeComfyUI, write: Callable[..., str]) -> None:
        async with engine_on(fake, workflow=write(with_upscaler())) as engine:
            assert sizes(await engine.draw(TASK, Reports())) == [(1024, 1024)]

    async def test_all_images_of_a_workflow_are_returned(self, fake: FakeComfyUI, write: Callable[..., str]) -> None:
        graph = sdxl()
        graph[LATENT]["inputs"]["batch_size"] = 2
        async with engine_on(fake, workflow=write(graph)) as engine:
            images = await engine.draw(TASK, Reports())
        assert sizes(images) == [(512, 512)] * 2
        assert images[0] != images[1]

    async def test_texts_are_ignored(self, fake: FakeComfyUI, write: Callable[..., str]) -> None:
        async with engine_on(fake, workflow=write(with_text())) as engine:
            assert sizes(await engine.draw(TASK, Reports())) == [(512, 512)]

    @pytest.mark.parametrize("form", ["JPEG", "WEBP"])
    async def test_other_formats_are_kept(self, newest: FakeComfyUI, write: Callable[..., str], form: str) -> None:
        graph = sdxl()
        graph["9"] = {"class_type": "SaveAsFile", "inputs": {"images": ["8", 0], "format": form}}
        async with engine_on(newest, workflow=write(graph)) as engine:
            (image,) = await engine.draw(TASK, Reports())
        assert image.media_type == f"image/{form.lower()}"

    @pytest.mark.parametrize(
        ("last", "message"),
        [
            ({"class_type": "PreviewAny", "inputs": {"source": ["8", 0]}}, "made no image; it needs a node such as"),
            ({"class_type": "SaveAsFile", "inputs": {"images": ["8", 0], "format": "MP4"}}, "not PNG, JPEG or WebP"),
        ],
    )
    async def test_a_workflow_without_an_image_fails(
        self, newest: FakeComfyUI, write: Callable[..., str], last: dict[str, Any], message: str
    ) -> None:
        async with engine_on(newest, workflow=write(sdxl() | {"9": last})) as engine:
            with pytest.raises(EngineFailure, match=message):
                await engine.draw(TASK, Reports())

    async def test_temporary_images_are_used_if_there_are_no_others(
        self, newest: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        preview = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
        async with engine_on(newest, workflow=write(sdxl() | {"10": preview})) as engine:
            assert len(await engine.draw(TASK, Reports())) == 1
        async with engine_on(newest, workflow=write(sdxl() | {"9": preview})) as engine:
            assert len(await engine.draw(replace(TASK, job_id="ext_2"), Reports())) == 1

    async def test_more_images_than_a_job_may_have_are_refused(
        self, newest: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        graph = sdxl()
        graph[LATENT]["inputs"]["batch_size"] = 9
        async with engine_on(newest, workflow=write(graph)) as engine:
            with pytest.raises(EngineFailure, match=r"made 9 images; a job may have 8: lower batch_size"):
                await engine.draw(TASK, Reports())


class TestErrors:
    @pytest.mark.parametrize(
        ("message", "shown"),
        [
            (
                "Error while reading '/root/my models/x.safetensors': truncated\nmore",
                "Error while reading …: truncated",
            ),
            ("cannot open /root/ComfyUI/x.py, C:\\models\\a.gguf or ~/x", "cannot open …, … or …"),
            (
                'Traceback (most recent call last):\n  File "/root/x.py", line 3\n    x()\nValueError: bad',
                "ValueError: bad",
            ),
            ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"),
            ("", "builtins.ValueError"),
        ],
    )
    async def test_a_node_error_has_its_place_and_no_path(self, newest: FakeComfyUI, message: str, shown: str) -> None:
        newest.execution.failures["VAEDecode"] = NodeFailure("builtins.ValueError", message)
        async with engine_on(newest) as engine:
            with pytest.raises(EngineFailure) as failure:
                await engine.draw(TASK, Reports())
        assert str(failure.value) == f"ComfyUI: node 11 (VAEDecode): {shown}"

    async def test_no_generation_discloses_a_traceback(self, fake: FakeComfyUI) -> None:
        fake.execution.failures["KSampler"] = NodeFailure("RuntimeError", "shapes do not match\n  File '/root/x.py'")
        async with engine_on(fake) as engine:
            with pytest.raises(EngineFailure) as failure:
                await engine.draw(TASK, Reports())
            assert str(failure.value) == "ComfyUI: node 10 (KSampler): shapes do not match"
            fake.execution.failures.clear()
            assert await engine.draw(replace(TASK, job_id="ext_2"), Reports())

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("torch.OutOfMemoryError", "Allocation on device"),
            ("torch.cuda.OutOfMemoryError", "tried to allocate 9 GiB in /root/x.py"),
            ("RuntimeError", "CUDA error: out of memory"),
        ],
    )
    async def test_out_of_memory_is_an_answer(self, fake: FakeComfyUI, kind: str, message: str) -> None:
        fake.execution.failures["KSampler"] = NodeFailure(kind, message)
        async with engine_on(fake) as engine:
            with pytest.raises(OutOfMemory, match=r"lower width and height \(512 x 512\)"):
                await engine.draw(TASK, Reports())

    async def test_a_refused_prompt_has_the_node_and_no_traceback(
        self, fake: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        graph = sdxl()
        graph["3"]["inputs"]["denoise"] = 7.0
        async with engine_on(fake, workflow=write(graph)) as engine:
            with pytest.raises(EngineFailure) as failure:
                await engine.draw(TASK, Reports())
        shown = "node 3 (KSampler): Value 7.0 bigger than max of 1 (denoise); got 7.0"
        assert str(failure.value) == f"ComfyUI refuses the workflow: {shown}"

    async def test_a_node_that_is_gone_is_named(self, fake: FakeComfyUI) -> None:
        async with engine_on(fake) as engine:
            fake.execution.missing_classes.add("VAEDecode")
            with pytest.raises(EngineFailure, match=r"Node 'VAEDecode' not found") as failure:
                await engine.draw(TASK, Reports())
        assert "/root" not in str(failure.value)

    async def test_a_workflow_that_is_valid_in_part_fails_and_does_not_run(
        self, fake: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        graph = sdxl()
        graph["20"] = {"class_type": "ImageScaleBy", "inputs": {"image": ["8", 0], "scale_by": 99.0}}
        graph["21"] = {"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "x"}}
        fake.execution.pause = "queue"
        async with engine_on(fake, workflow=write(graph)) as engine:
            with pytest.raises(EngineFailure, match=r"a part of the workflow: node 20 \(ImageScaleBy\): Value 99"):
                await asyncio.wait_for(engine.draw(TASK, Reports()), 20)
        assert len(fake.prompts) == 1
        await asyncio.to_thread(fake.resume)
        assert fake.execution.executed == []

    @pytest.mark.parametrize("path", ["/queue", "/history", "/prompt", "/upload/image"])
    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b"{}", b'{"a": 1}', b'{"queue_running": [1], "queue_pending": []}', DEEP]
    )
    async def test_a_response_of_another_kind_is_a_crash(
        self, newest: FakeComfyUI, write: Callable[..., str], path: str, body: bytes
    ) -> None:
        options = {"workflow": write(with_reference())}
        async with engine_on(newest, **options) as engine:
            newest.execution.broken[path] = body
            task = replace(TASK, references=(png(),))
            with pytest.raises((EngineCrashed, EngineFailure)) as failure:
                await asyncio.wait_for(engine.draw(task, Reports()), 20)
        assert str(failure.value).isprintable()

    async def test_a_response_that_is_too_large_is_a_crash(
        self, newest: FakeComfyUI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with engine_on(newest) as engine:
            monkeypatch.setattr("umrgen.server.engines.remote_http.LARGEST_RESPONSE", 100)
            newest.execution.broken["/queue"] = b" " * 101
            with pytest.raises(EngineCrashed, match="larger than 100 bytes"):
                await engine.draw(TASK, Reports())

    async def test_files_outside_of_comfyuis_folders_are_not_read(self, newest: FakeComfyUI) -> None:
        async with engine_on(newest) as engine:
            await engine.draw(TASK, Reports())
            entry = next(iter(newest.execution.history.values()))
            entry["outputs"] = {"9": {"images": [{"filename": "../x", "subfolder": "", "type": "output"}]}}
            with pytest.raises(EngineCrashed, match="answered 400 instead of an image"):
                await engine.draw(TASK, Reports())


def png() -> bytes:
    from io import BytesIO

    from PIL import Image

    encoded = BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(encoded, "PNG")
    return encoded.getvalue()


class TestParameters:
    async def test_every_parameter_reaches_its_node(self, fake: FakeComfyUI, write: Callable[..., str]) -> None:
        graph = sdxl()
        slot = {"model": ["4", 0], "clip": ["4", 1], "lora_name": "", "strength_model": 0, "strength_clip": 0}
        graph["14"] = {"class_type": "LoraLoader", "inputs": slot}
        graph["3"]["inputs"]["model"] = graph["6"]["inputs"]["clip"] = ["14", 0]
        graph["6"]["inputs"]["clip"] = ["14", 1]
        task = draw_task("a boat", 640, 768, 5, 77, negative="rain")
        changes = {"cfg": 3.5, "model": "SDXL/dreamshaper.safetensors", "loras": (Lora("ink.safetensors", 0.5),)}
        task = replace(task, request=msgspec.structs.replace(task.request, **changes))
        async with engine_on(fake, workflow=write(graph)) as engine:
            assert set(engine.info.features) == {"previews", "negative", "loras", "cfg"}
            assert engine.info.models[:2] == ("sd_xl_base_1.0.safetensors", "SDXL/dreamshaper.safetensors")
            assert engine.info.loras == ("ink.safetensors", "style/pixel.safetensors")
            assert (engine.info.default_steps, engine.info.default_cfg, engine.info.size_multiple) == (20, 8.0, 8)
            assert sizes(await engine.draw(task, Reports())) == [(640, 768)]
            assert (sent(fake, "6")["text"], sent(fake, "7")["text"]) == ("a boat", "rain")
            assert (sent(fake, "3")["seed"], sent(fake, "3")["steps"], sent(fake, "3")["cfg"]) == (77, 5, 3.5)
            assert sent(fake, "4")["ckpt_name"] == "SDXL/dreamshaper.safetensors"
            assert (sent(fake, "14")["lora_name"], sent(fake, "14")["strength_clip"]) == ("ink.safetensors", 0.5)
            await engine.draw(replace(TASK, job_id="ext_2"), Reports())
        plain = fake.execution.accepted[-1].graph
        assert "14" not in plain
        assert (plain["3"]["inputs"]["model"], plain["6"]["inputs"]["clip"]) == (["4", 0], ["4", 1])
        assert (plain["7"]["inputs"]["text"], plain["3"]["inputs"]["cfg"]) == ("blurry", 8.0)

    async def test_a_seed_is_reduced_to_what_its_inputs_accept(
        self, newest: FakeComfyUI, write: Callable[..., str], tmp_path: Path
    ) -> None:
        """ComfyUI refuses a larger one, and half of all random seeds are above 2**31 - 1, a frequent limit."""
        graph = sdxl()
        graph["14"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}}
        graph["15"] = {"class_type": "PreviewImage", "inputs": {"images": ["14", 0]}}
        (tmp_path / "bindings.toml").write_text('seed = ["3.seed", "14.color"]')
        async with engine_on(newest, workflow=write(graph), bindings=str(tmp_path / "bindings.toml")) as engine:
            assert await engine.draw(draw_task("a boat", seed=(5 << 24) + 7), Reports())
        assert (sent(newest, "3")["seed"], sent(newest, "14")["color"]) == (7, 7)

    async def test_references_are_uploaded_once_under_their_digest(self, fake: FakeComfyUI) -> None:
        task = replace(TASK, references=(png(),))
        async with engine_on(fake, workflow="flux2-klein") as engine:
            await engine.draw(task, Reports())
            await engine.draw(replace(task, job_id="ext_2"), Reports())
            assert list(fake.execution.uploads) == [sent(fake, "12")["image"]]
            assert "latent" not in sent(fake, "17")  # the second place is left out
            assert "latent" in sent(fake, "14")
            await engine.draw(replace(TASK, job_id="ext_3"), Reports())
            assert sent(fake, "14") == {"conditioning": ["6", 0]}
            with pytest.raises(EngineFailure, match="places for 2 reference images; got 3"):
                await engine.draw(replace(task, job_id="ext_4", references=(png(),) * 3), Reports())

    async def test_the_steps_of_a_sampler_are_scaled_to_those_of_the_request(
        self, newest: FakeComfyUI, write: Callable[..., str], tmp_path: Path
    ) -> None:
        (tmp_path / "bindings.toml").write_text("steps = false\n")
        bindings = str(tmp_path / "bindings.toml")
        async with engine_on(newest, workflow=write(sdxl()), bindings=bindings) as engine:
            assert (engine.info.min_steps, engine.info.max_steps, engine.info.default_steps) == (20, 20, 20)
            reports = Reports()
            await engine.draw(TASK, reports)
        assert reports.steps == [(step, 4) for step in range(1, 5)]


class TestServers:
    async def test_a_server_that_ends_leaves_and_comes_back(self, fake: FakeComfyUI) -> None:
        grown = asyncio.Event()
        with FakeComfyUI() as other:
            engine = load_engine("comfyui", QUICK | {"url": f"{fake.url},{other.url}*2"})
            await engine.load(grown.set)
            assert engine.capacity == 3
            await asyncio.to_thread(other.stop)
            async with asyncio.timeout(20):
                while engine.capacity != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert sizes(await engine.draw(TASK, Reports())) == [(512, 512)]
                from fake_comfyui import _bound_socket

                other._socket = _bound_socket(other.port)
                other.start()
                await grown.wait()
            assert engine.capacity == 3
            await engine.close()
        assert len(fake.prompts) == 1

    async def test_a_job_is_sent_to_the_next_server_if_the_first_ended(self, newest: FakeComfyUI) -> None:
        with FakeComfyUI() as other:
            async with engine_on(other, newest, health_interval=600) as engine:
                await asyncio.to_thread(other.stop)
                assert sizes(await engine.draw(TASK, Reports())) == [(512, 512)]
                assert engine.capacity == 1
            other.start = other.stop = lambda: None  # type: ignore[method-assign]
        assert len(newest.prompts) == 1

    async def test_a_job_goes_where_its_models_are_loaded(self, newest: FakeComfyUI, write: Callable[..., str]) -> None:
        def task(number: int, model: str) -> DrawTask:
            request = msgspec.structs.replace(TASK.request, model=model)
            return DrawTask(f"ext_{number}", request)

        models = ("sd_xl_base_1.0.safetensors", "SDXL/dreamshaper.safetensors")
        with FakeComfyUI() as other:
            async with engine_on(newest, other, workflow=write(sdxl())) as engine:
                for number in range(6):
                    await engine.draw(task(number, models[number % 2]), Reports())
            used = [
                {prompt.graph["4"]["inputs"]["ckpt_name"] for prompt in fake.execution.accepted}
                for fake in (newest, other)
            ]
        assert used == [{models[0]}, {models[1]}]

    async def test_a_model_that_no_responding_server_has_is_a_crash(
        self, newest: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        """The server that has it may return, so the job is tried again."""
        request = msgspec.structs.replace(TASK.request, model="elsewhere.safetensors")
        async with engine_on(newest, workflow=write(sdxl())) as engine:
            with pytest.raises(EngineCrashed, match="no ComfyUI that responds has this model or LoRA"):
                await engine.draw(DrawTask("ext_1", request), Reports())
        assert newest.prompts == []

    async def test_the_missing_package_is_named(self, newest: FakeComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("umrgen.server.engines.comfyui.engine.find_spec", lambda name: None)
        with pytest.raises(EngineFailure, match=r"pip install 'umrgen\[comfyui\]'"):
            async with engine_on(newest):
                pass

    async def test_without_a_server_the_engine_cannot_be_loaded(self) -> None:
        with FakeComfyUI() as ended:
            url = ended.url
        engine = load_engine("comfyui", QUICK | {"url": url})
        with pytest.raises(EngineFailure, match="ComfyUI does not respond"):
            await engine.load(lambda: None)
        await engine.close()

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"system": 5}'])
    async def test_another_program_on_the_port_is_no_comfyui(self, newest: FakeComfyUI, body: bytes) -> None:
        newest.execution.broken["/system_stats"] = body
        engine = load_engine("comfyui", QUICK | {"url": newest.url})
        with pytest.raises(EngineFailure, match="is it ComfyUI"):
            await engine.load(lambda: None)
        await engine.close()

    async def test_the_models_leave_the_memory_of_all_servers(self, newest: FakeComfyUI) -> None:
        with FakeComfyUI("0.8") as other:
            async with engine_on(newest, other) as engine:
                await engine.unload()
            assert newest.execution.freed == other.execution.freed == [{"unload_models": True, "free_memory": True}]


class TestChecks:
    async def refused(self, fake: FakeComfyUI, **options: Any) -> str:
        engine = load_engine("comfyui", QUICK | {"url": fake.url} | options)
        with pytest.raises(EngineFailure) as failure:
            await engine.load(lambda: None)
        await engine.close()
        return str(failure.value)

    async def test_a_missing_node_is_named(self, fake: FakeComfyUI, write: Callable[..., str]) -> None:
        graph = sdxl() | {"30": {"class_type": "FancyNode", "inputs": {}}}
        assert "node 30 (FancyNode): ComfyUI has no such node; install" in await self.refused(
            fake, workflow=write(graph)
        )

    async def test_a_missing_model_is_named_and_the_right_name_shown(
        self, fake: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        graph = sdxl()
        graph["4"]["inputs"]["ckpt_name"] = "SD_XL_base_1.0.safetensors"
        shown = await self.refused(fake, workflow=write(graph))
        assert (
            "node 4 (CheckpointLoaderSimple): ckpt_name is 'SD_XL_base_1.0.safetensors', but ComfyUI has it as "
            in shown
        )
        assert "'sd_xl_base_1.0.safetensors'; write it so" in shown
        graph["4"]["inputs"]["ckpt_name"] = "dreamshaper.safetensors"
        assert "'SDXL/dreamshaper.safetensors'; write it so" in await self.refused(fake, workflow=write(graph))
        graph["4"]["inputs"]["ckpt_name"] = "none.safetensors"
        assert "which ComfyUI does not have; put the file there" in await self.refused(fake, workflow=write(graph))
        graph = sdxl()
        graph["3"]["inputs"]["sampler_name"] = "of a later version"
        assert "which ComfyUI does not have; update ComfyUI" in await self.refused(fake, workflow=write(graph))

    async def test_nodes_that_cost_money_are_refused_unless_allowed(
        self, fake: FakeComfyUI, write: Callable[..., str]
    ) -> None:
        graph = sdxl() | {"31": {"class_type": "PaidImageNode", "inputs": {"prompt": "x"}}}
        shown = await self.refused(fake, workflow=write(graph))
        assert "node 31 (PaidImageNode): this node calls a service that costs money" in shown
        assert "allow_paid_nodes=true" in shown
        async with engine_on(fake, workflow=write(graph), allow_paid_nodes=True) as engine:
            assert engine.capacity == 1

    async def test_without_a_workflow_the_template_is_chosen_by_the_files(
        self, newest: FakeComfyUI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fake_comfyui import nodes

        monkeypatch.setitem(nodes.CHOICES, "unets", ["flux-2-klein-4b.safetensors"])
        async with engine_on(newest) as engine:
            assert (engine.info.default_steps, "references" in engine.info.features) == (4, True)
        monkeypatch.setitem(nodes.CHOICES, "unets", [])
        shown = await self.refused(newest)
        assert "no workflow is given, and ComfyUI cannot run a template: z-image-turbo: node 1 (UNETLoader)" in shown


def test_the_ids_of_prompts_are_canonical_and_never_change() -> None:
    """An id that changed with a version of UMRGEN would draw twice after an update."""
    assert prompt_uuid("ext_1", 0) == "78e94386-f039-5400-b500-323547a2a992"
    assert prompt_uuid("ext_1", 1) != prompt_uuid("ext_1", 0)
