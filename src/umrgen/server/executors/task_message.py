"""The message with the tasks of a batch: a head, and the files of all tasks, each once."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import msgspec

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask
from umrgen.server.executors.frames import Frame

__all__ = ["pack_tasks", "unpack_tasks"]


class _Files:
    """The files of a message, by their numbers. The jobs of a batch have the same reference images."""

    def __init__(self) -> None:
        self.all: list[bytes] = []
        self._numbers: dict[Hashable, int] = {}

    def numbers(self, kind: str, task: DrawTask, files: Sequence[bytes]) -> list[int]:
        """Return the numbers of a task's files; those of references with the same name are the same."""
        keys = self._keys(kind, task.request.reference_images, files)
        return [self._number(*each) for each in zip(keys, files, strict=True)]

    @staticmethod
    def _keys(kind: str, names: Sequence[str], files: Sequence[bytes]) -> Iterable[Hashable]:
        return [(kind, name) for name in names] if len(names) == len(files) else map(id, files)

    def _number(self, key: Hashable, file: bytes) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.all)
            self.all.append(file)
        return self._numbers[key]


def pack_tasks(tasks: Sequence[DrawTask]) -> Frame:
    """Return the message."""
    files = _Files()
    heads = [_head(task, files) for task in tasks]
    return {"do": "draw", "tasks": heads, "files": [len(file) for file in files.all]}, b"".join(files.all)


def _head(task: DrawTask, files: _Files) -> dict[str, Any]:
    return {
        "job_id": task.job_id,
        "request": msgspec.to_builtins(task.request),
        "references": files.numbers("reference", task, task.references),
        "archives": files.numbers("archive", task, task.archives),
        "with_prompt": task.with_prompt,
        "created_at": task.created_at,
    }


def unpack_tasks(head: Mapping[str, Any], body: bytes) -> list[DrawTask]:
    """Return the tasks of a message."""
    rest = BytesIO(body)
    return list(_tasks(head["tasks"], [rest.read(size) for size in head["files"]]))


def _tasks(heads: Sequence[Mapping[str, Any]], files: Sequence[bytes]) -> Iterator[DrawTask]:
    for each in heads:
        references, archives = (tuple(files[number] for number in each[name]) for name in ("references", "archives"))
        request = msgspec.convert(each["request"], GenerationRequest)
        yield DrawTask(each["job_id"], request, references, each["with_prompt"], each["created_at"], archives=archives)
