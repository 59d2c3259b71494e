"""The environment and the resource limits of a real process that decodes an upload."""

import asyncio
import os
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from umrgen.server import reencode
from umrgen.server.services.decoding import Decoders, _decoder
from umrgen.server.services.refusal import Refusal


@pytest.fixture
async def decoder(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.subprocess.Process]:
    """A decoder that waits for its image."""
    monkeypatch.setenv("UMRGEN_API_KEY", "a-secret-of-the-server")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    process = await _decoder()
    yield process
    process.kill()
    await process.communicate()


async def limits_of(process: asyncio.subprocess.Process) -> dict[str, str]:
    """Wait until the process has set the last of its soft limits, and return them."""
    while True:
        lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()[1:]
        limits = {line[:26].strip(): line[26:].split()[0] for line in lines}
        if limits["Max file size"] == "0":
            return limits
        assert process.returncode is None
        await asyncio.sleep(0.01)


async def test_the_decoder_has_only_the_environment_variables_that_it_needs(
    decoder: asyncio.subprocess.Process,
) -> None:
    await limits_of(decoder)  # wait for its exec: between fork and exec the file `environ` is empty
    given = Path(f"/proc/{decoder.pid}/environ").read_bytes().decode().split("\0")
    names = {entry.partition("=")[0] for entry in given if entry}
    assert names <= {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG"}
    assert "PATH" in names
    assert len(os.environ) > len(names), "this process has other variables, too"


async def test_the_decoder_is_limited_in_memory_cpu_time_and_file_size(decoder: asyncio.subprocess.Process) -> None:
    limits = await limits_of(decoder)
    assert limits["Max cpu time"] == str(reencode.CPU_SECONDS) == "15"
    assert limits["Max address space"] == str(reencode.MEMORY) == str(1 << 30)
    assert limits["Max file size"] == "0"


async def test_an_image_above_the_size_limit_is_refused_before_decoding() -> None:
    """The file has the size in its header and no pixels, so a decoder would report it as corrupt."""
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 6000, 6000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    with pytest.raises(Refusal, match="million pixels"):
        await Decoders().reencode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
