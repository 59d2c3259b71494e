"""Faults while an image is downloaded."""

import errno
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gateways import GATEWAY_RESPONSES

from fault_cases import (
    FOREIGN_OUTPUT,
    IMAGE,
    KEY,
    SHARES,
    SHORT,
    ActThenRespond,
    CaseRun,
    Expected,
    Fails,
    FaultCase,
    Faults,
    HalfBody,
    RunCase,
    common_cases,
    completed,
    foreign_image_requested,
    no_foreign_request,
    parametrize,
    restart_and_refuse,
    resumed,
    self_signed_server,
)
from support import until
from umrgen import ConnectionFailed, OutputCorrupt, OutputForbidden, OutputMissing, ServerError, WaitTimeout
from umrgen.errors import NotUmrgen, TargetUnusable
from umrgen.testing import (
    Drip,
    Fault,
    HtmlPage,
    NoResponse,
    PassThrough,
    Redirect,
    Reset,
    Respond,
    Tamper,
    Truncate,
    png_bytes,
)

pytestmark = pytest.mark.timeout(30)

OTHER_IMAGE = png_bytes(60_000, seed=8)

OTHER_PROCESS = """
import sys
from umrgen import Client
url, key, job, target = sys.argv[1:]
with Client(url, key, journal=None) as client:
    client.job(job).download(target)
"""


class FullDisk(io.FileIO):
    """A file on a disk with this much space, in bytes."""

    space = 0

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.space:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def flip_one_bit(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def fresh_url_after(status: int) -> Faults:
    """The first URL is refused with this status; the next status has another."""

    def prepare(run: CaseRun) -> tuple[Fault, ...]:
        run.on_phase(completed("/outputs/stale.png?session_id=old"), phase="wait")
        run.server.on("GET /outputs/stale.png", Respond(status))
        return ()

    return prepare


def status_requested_twice(run: CaseRun) -> None:
    """Check that the client requested a fresh URL once."""
    assert len(run.status_requests) == 2


def redirect(location: Callable[[CaseRun], str], status: int = 302) -> Faults:
    return lambda run: (Redirect(location(run), status),)


def foreign_url(run: CaseRun) -> str:
    return f"{run.foreign.url}/image.png"


def protocol_relative_url(run: CaseRun) -> str:
    return f"//127.0.0.1:{run.foreign.port}/x"


def redirect_within_the_origin(run: CaseRun) -> tuple[Fault, ...]:
    run.server.on("GET /outputs/elsewhere.png", Respond(200, IMAGE, {"Content-Type": "image/png"}))
    return (Redirect("/outputs/elsewhere.png"),)


def _delete(folder: Path) -> None:
    """Delete the folder, as often as needed: the client may be creating its partial file."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def delete_folder(run: CaseRun) -> tuple[Fault, ...]:
    return (HalfBody(lambda: _delete(run.folder)),)


def delete_folder_and_truncate(run: CaseRun) -> tuple[Fault, ...]:
    return (ActThenRespond(lambda: _delete(run.folder), Truncate(0.5)), PassThrough())


def full_after(space: int) -> Faults:
    def prepare(run: CaseRun) -> tuple[Fault, ...]:
        original = Path.open

        def opened(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            if path.name.endswith(".part") and mode == "x+b":
                disk = FullDisk(path, "x+")
                disk.space = space
                return io.BufferedRandom(disk)
            return original(path, mode, *arguments, **more)

        run.patch.setattr(Path, "open", opened)
        return ()

    return prepare


def _other_process(run: CaseRun) -> list[str]:
    """Return the command of a process that downloads the same job to the same file."""
    arguments = [run.server.url, KEY, run.server.jobs[0].id, str(run.target)]
    return [sys.executable, "-c", OTHER_PROCESS, *arguments]


def other_process_finishes(run: CaseRun) -> tuple[Fault, ...]:
    """Another process downloads the image in the middle of this download."""
    return (HalfBody(lambda: subprocess.run(_other_process(run), check=True)),)


def other_process_holds(run: CaseRun) -> tuple[Fault, ...]:
    """Another process holds its partial file in the middle of its download when this one begins."""

    def start() -> None:
        process = subprocess.Popen(_other_process(run))
        run.cleanups.append(lambda: (process.kill(), process.wait()))
        until(lambda: [path for path in run.folder.glob(".*.part") if path.stat().st_size])

    run.on_phase(ActThenRespond(start), phase="wait")
    return (HalfBody(end=True),)


def restart_in_the_body(run: CaseRun) -> tuple[Fault, ...]:
    return (HalfBody(run.server.restart),)


def self_signed_image(run: CaseRun) -> tuple[Fault, ...]:
    run.on_phase(completed(self_signed_server(run).url + "/image.png"), phase="wait")
    return ()


def plain_http_as_tls(run: CaseRun) -> tuple[Fault, ...]:
    run.on_phase(completed(run.foreign.url.replace("http:", "https:") + "/image.png"), phase="wait")
    return ()


NO_DIGESTS: Mapping[str, str | None] = {"Repr-Digest": None, "Content-Digest": None}
WRONG_DIGEST = "sha-256=:" + "A" * 43 + "=:"
INVALID_FILES: Mapping[str, tuple[Fault, Expected | Mapping[str, Expected]]] = {
    "HTML": (HtmlPage(), Fails(OutputCorrupt)),
    "JSON": (Respond(200, {"error": "no"}), Fails(OutputCorrupt)),
    "zero bytes": (Respond(200), {"modern": Fails(OutputCorrupt), "legacy": Fails(OutputMissing)}),
    "too short, with a true length": (Tamper(lambda body: body[:-100]), Fails(OutputCorrupt)),
    "one bit flipped": (Tamper(flip_one_bit, headers=NO_DIGESTS), Fails(OutputCorrupt)),
    "too long": (Tamper(lambda body: body + b"junk", headers=NO_DIGESTS), Fails(OutputCorrupt)),
}
ANY_ORIGIN = {"follow_foreign": True}
UNLIMITED = {"drip_window": 15, "timeout": 25}
"""Client options for cases in which another process starts and ends in the middle of the body."""
NO_LEGACY_DIGESTS = "legacy servers send no digests"

CASES = [
    *common_cases("download"),
    FaultCase(
        "TLS failure: plain HTTP",
        plain_http_as_tls,
        Fails(ConnectionFailed),
        options=ANY_ORIGIN,
        check=no_foreign_request,
    ),
    FaultCase("TLS failure: a self-signed certificate", self_signed_image, Fails(ConnectionFailed), options=ANY_ORIGIN),
    *(
        FaultCase(f"resumed after a reset at {share:.0%}", (Reset(after_headers=True, share=share),), check=resumed)
        for share in SHARES
    ),
    FaultCase("body drips", (Drip(100, 0.02),), options={"drip_rate": 1e6}, check=resumed),
    FaultCase("the body stops", (HalfBody(end=True),), check=resumed),
    FaultCase("no response without end", (NoResponse(),), Fails(WaitTimeout), times=None, options={"timeout": 0.5}),
    FaultCase("no response beyond patience", (NoResponse(),), Fails(ConnectionFailed), times=None, options=SHORT),
    FaultCase(
        "drips without end",
        (Drip(1, 0.02),),
        Fails(WaitTimeout),
        times=None,
        options={"timeout": 0.6, "drip_rate": 1e6},
    ),
    FaultCase(
        "drips fast enough, but past the deadline",
        (Drip(1, 0.02),),
        Fails(WaitTimeout),
        times=None,
        options={"timeout": 0.5, "drip_rate": 1},
    ),
    *(
        FaultCase(f"{n} without end", (Respond(n),), Fails(ServerError), times=None, simulated=True)
        for n in (500, 502, 503, 504)
    ),
    FaultCase(
        "429 with 86400 without end",
        (Respond(429, b"", {"Retry-After": "86400"}),),
        Fails(WaitTimeout),
        times=None,
        simulated=True,
    ),
    *(
        FaultCase(f"redirect ({n}) to another host, once", redirect(foreign_url, n), check=no_foreign_request)
        for n in (302, 307, 308)
    ),
    FaultCase(
        "redirect to another host",
        redirect(foreign_url),
        FOREIGN_OUTPUT,
        times=None,
        simulated=True,
        check=no_foreign_request,
    ),
    FaultCase(
        "redirect to //foreign/x",
        redirect(protocol_relative_url),
        FOREIGN_OUTPUT,
        times=None,
        simulated=True,
        check=no_foreign_request,
    ),
    *(
        FaultCase(
            f"{sent.name}, twice",
            (Respond(sent.status, sent.body.encode(), sent.headers),),
            times=2,
            simulated=True,
            only="modern" if sent.status == 404 and not sent.body else None,
            why="a 404 without a body is an older server's own",
        )
        for sent in GATEWAY_RESPONSES
    ),
    FaultCase(
        "404 of a gateway, without end",
        (Respond(404, b"404 page not found", {"Content-Type": "text/plain"}),),
        Fails(NotUmrgen),
        times=None,
        simulated=True,
    ),
    FaultCase(
        "redirect to another host, allowed", redirect(foreign_url), options=ANY_ORIGIN, check=foreign_image_requested
    ),
    FaultCase("redirect to another path", redirect_within_the_origin),
    FaultCase("redirect loop", (Redirect("?again"),), Fails(OutputCorrupt, "redirect_loop"), times=None),
    *(FaultCase(f"a file that is {what}, once", (fault,)) for what, (fault, _) in INVALID_FILES.items()),
    *(
        FaultCase(f"a file that is {what}", (fault,), expected, times=None, simulated=True)
        for what, (fault, expected) in INVALID_FILES.items()
    ),
    FaultCase("longer than announced", (Tamper(lambda body: body + b"junk", keep_length=True),)),
    FaultCase("larger than allowed", (), Fails(OutputCorrupt, "too_large"), options={"max_bytes": 10_000}),
    *(
        FaultCase(
            f"a wrong {name}",
            (Tamper(headers={**NO_DIGESTS, name: WRONG_DIGEST}),),
            Fails(OutputCorrupt),
            times=None,
            only="modern",
            why=NO_LEGACY_DIGESTS,
        )
        for name in ("Repr-Digest", "Content-Digest")
    ),
    FaultCase(
        "a wrong digest, once",
        (Tamper(headers={"Repr-Digest": WRONG_DIGEST}),),
        only="modern",
        why=NO_LEGACY_DIGESTS,
    ),
    FaultCase(
        "another image than the digest says",
        (Tamper(lambda body: OTHER_IMAGE),),
        Fails(OutputCorrupt),
        times=None,
        only="modern",
        why=NO_LEGACY_DIGESTS,
    ),
    FaultCase(
        "another version when it is resumed",
        (Truncate(0.5), Respond(206, IMAGE[-100:], {"Content-Range": "bytes 59900-59999/60000", "ETag": '"other"'})),
    ),
    *(FaultCase(f"{n}, then a fresh URL", fresh_url_after(n), check=status_requested_twice) for n in (403, 404, 410)),
    *(
        FaultCase(f"{n} without end", (Respond(n, {"code": code}),), expected, times=None, check=status_requested_twice)
        for n, code, expected in (
            (403, "forbidden_output", Fails(OutputForbidden)),
            (404, "output_not_found", Fails(OutputMissing, "output_not_found")),
            (410, "output_expired", Fails(OutputMissing, "output_expired")),
        )
    ),
    *(
        FaultCase(
            f"{n} without a body, without end",
            (Respond(n),),
            {"modern": Fails(NotUmrgen), "legacy": Fails(OutputMissing if n == 404 else OutputForbidden, code)},
            times=None,
            simulated=True,
        )
        for n, code in ((403, ""), (404, "output_not_found"))
    ),
    *(
        FaultCase(f"a disk that is full {when}", full_after(space), Fails(TargetUnusable, "disk_full"))
        for when, space in {"at once": 0, "in the middle": 30_000, "at the last byte": len(IMAGE) - 1}.items()
    ),
    FaultCase("the folder is deleted", delete_folder, Fails(TargetUnusable)),
    FaultCase("the folder is deleted, the rest resumed", delete_folder_and_truncate, Fails(TargetUnusable)),
    FaultCase(
        "another process finishes first",
        other_process_finishes,
        Fails(TargetUnusable, "target_exists"),
        options=UNLIMITED,
    ),
    FaultCase("another process finishes first, overwriting", other_process_finishes, overwrite=True, options=UNLIMITED),
    FaultCase("another process holds the partial file", other_process_holds, keeps_parts=True),
    FaultCase("the server restarts in the body", restart_in_the_body, check=resumed),
    FaultCase("the server restarts and refuses connections", restart_and_refuse, check=resumed),
]


@parametrize(CASES)
def test_a_fault_while_downloading(run_case: RunCase, case: FaultCase, mode: str, driver: str) -> None:
    run_case("download", case, mode, driver)
