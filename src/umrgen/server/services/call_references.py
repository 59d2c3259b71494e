"""Reference images that arrive within a call: deleted when the last call, and the last job of one, has ended."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from weakref import WeakValueDictionary

from umrgen.server.domain.job import Job
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.services.caller import Caller
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.uploads import Reservation, Uploads

__all__ = ["CallReferences", "HeldReferences"]


class CallReferences:
    """Stores the images of calls as reference images; equal images once, which several calls may need."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._users: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """The calls and jobs that need an image, by session and name. After a restart, retention deletes the images."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By session: no image is deleted between its being found and its being needed."""

    async def add(self, caller: Caller, reserved: Reservation, images: Iterable[bytes]) -> "HeldReferences":
        """Store images, and return them as needed by this call. Raises Refusal; then it needs no image."""
        held = HeldReferences(self, caller)
        try:
            for image in images:
                held.names.append(await self._add(caller, reserved, image, held.users))
        except BaseException:
            await asyncio.shield(held.release())
            raise
        return held

    async def _add(self, caller: Caller, reserved: Reservation, image: bytes, users: set[str]) -> str:
        async with self._lock(caller):
            uploaded = {upload.name for upload in await self._uploads.all(caller)}
            name = (await reserved.add(image)).name
            if name not in uploaded or (caller.session_id, name) in self._users:
                self._users[caller.session_id, name] |= users
            return name

    def keep(self, caller: Caller, name: str) -> None:
        """Keep an image when its calls end: the caller has uploaded it as a reference image too."""
        self._users.pop((caller.session_id, name), None)

    def replace(self, caller: Caller, names: Iterable[str], users: set[str], by: set[str]) -> None:
        """Record that the images are needed by others than before."""
        for name in names:
            if (caller.session_id, name) in self._users:
                self._users[caller.session_id, name] -= users
                self._users[caller.session_id, name] |= by

    async def release(self, caller: Caller, names: Iterable[str], users: set[str]) -> None:
        """Delete those of the images that are needed by no other than `users`."""
        self.replace(caller, names, users, set())
        async with self._lock(caller):
            for name in names:
                if self._users.get((caller.session_id, name)) == set():
                    del self._users[caller.session_id, name]
                    with suppress(Refusal, LedgerUnavailable):  # else retention deletes it
                        await self._uploads.remove(caller, name)

    def _lock(self, caller: Caller) -> asyncio.Lock:
        return self._locks.setdefault(caller.session_id, asyncio.Lock())


class HeldReferences:
    """The reference images of one call, as a context manager around it.

    A call that is cut off leaves them to its jobs, and so to the next equal call, which takes these jobs.
    """

    def __init__(self, references: CallReferences, caller: Caller) -> None:
        self.names: list[str] = []
        self.users = {secrets.token_hex(8)}
        """The call itself; then its jobs."""
        self._started = False
        self._references = references
        self._caller = caller

    def needed_by(self, jobs: Sequence[Job]) -> None:
        """Record that the call has its jobs, which need the images."""
        users = {job.id for job in jobs}
        self._references.replace(self._caller, self.names, self.users, by=users)
        self.users, self._started = users, True

    async def release(self) -> None:
        await self._references.release(self._caller, self.names, self.users)

    async def __aenter__(self) -> "HeldReferences":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._started and isinstance(error, Refusal) and error.code == "job_failed" and error.job_id:
            self.users = {error.job_id}  # this job is over; the others of the call may not be
        elif self._started and error is not None:
            return
        await asyncio.shield(self.release())
