"""Images in the terminal: the encoders, and how the terminal is detected."""

import base64
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Iterator
from io import BytesIO

import pytest
from PIL import Image

from umrgen.cli.display.detection import (
    QUERY,
    Screen,
    attributes_of,
    chosen_protocol,
    in_multiplexer,
    protocol_by_environment,
)
from umrgen.cli.display.iterm import iterm_sequence
from umrgen.cli.display.kitty import kitty_sequence
from umrgen.cli.display.multiplexer import passed_through
from umrgen.cli.display.sixel import encode, sixel_sequence

SCREEN = Screen(80, 24, 8, 16)


def image(width: int = 40, height: int = 26, kind: str = "PNG") -> bytes:
    target = BytesIO()
    picture = Image.new("RGB", (width, height))
    picture.putdata([(x * 6 % 256, y * 9 % 256, (x * y) % 256) for y in range(height) for x in range(width)])
    picture.save(target, kind)
    return target.getvalue()


def decode_sixel(sequence: bytes) -> Image.Image:
    """Return the image that a terminal draws for a sequence: written from the description of the format."""
    found = re.fullmatch(rb'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\', sequence, re.DOTALL)
    assert found, sequence[:40]
    picture, palette = Image.new("RGB", (int(found[1]), int(found[2]))), {}
    x = y = colour = 0
    pattern = rb"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|(\$)|(-)|([?-~])"
    for token in re.finditer(pattern, found[3]):
        defined, red, green, blue, selected, count, repeated, back, down, single = token.groups()
        if defined:
            palette[int(defined)] = tuple(round(int(part) * 2.55) for part in (red, green, blue))
        elif selected:
            colour = int(selected)
        elif back:
            x = 0
        elif down:
            x, y = 0, y + 6
        else:
            for _ in range(int(count or 1)):
                bits = (repeated or single)[0] - 63
                for row in [row for row in range(6) if bits >> row & 1]:
                    picture.putpixel((x, y + row), palette[colour])
                x = x + 1
    return picture


def test_a_terminal_draws_the_pixels_of_a_sixel_sequence() -> None:
    quantized = Image.open(BytesIO(image())).quantize(64)
    drawn = decode_sixel(encode(quantized)).tobytes()
    expected = quantized.convert("RGB").tobytes()
    assert max(abs(one - other) for one, other in zip(drawn, expected, strict=True)) <= 2, "Sixel has percents"


def test_a_large_image_is_scaled_to_the_screen() -> None:
    sequence = sixel_sequence(image(400, 200), Screen(20, 12, 8, 16))
    assert sequence is not None
    drawn = decode_sixel(sequence)
    assert drawn.width == 2 * drawn.height
    assert (drawn.width <= 19 * 8, drawn.height <= 8 * 16) == (True, True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_kitty_gets_a_png_in_chunks(kind: str) -> None:
    data = image(300, 200, kind)
    sequence = kitty_sequence(data, SCREEN)
    assert sequence is not None
    chunks = re.findall(rb"\x1b_G(?:a=T,f=100,q=2,c=(\d+),)?m=([01]);([A-Za-z0-9+/=]{1,4096})\x1b\\", sequence)
    assert len(chunks) == sequence.count(b"\x1b_G")
    assert re.sub(rb"\x1b_G[^\x1b]*\x1b\\", b"", sequence) == b""
    assert [more for _, more, _ in chunks] == [b"1"] * (len(chunks) - 1) + [b"0"]
    assert [bool(columns) for columns, _, _ in chunks] == [True] + [False] * (len(chunks) - 1)
    png = base64.b64decode(b"".join(text for _, _, text in chunks))
    assert Image.open(BytesIO(png)).size == (300, 200)


def test_iterm_gets_the_file_without_its_name() -> None:
    data = image(kind="JPEG")
    sequence = iterm_sequence(data, SCREEN)
    assert sequence is not None
    head, _, text = sequence.partition(b":")
    assert head.startswith(b"\x1b]1337;File=inline=1;")
    assert b"name=" not in head
    assert base64.b64decode(text.removesuffix(b"\x07")) == data


def test_without_pillow_there_is_no_sixel_and_kitty_shows_png_only(monkeypatch: pytest.MonkeyPatch) -> None:
    png, jpeg = image(), image(kind="JPEG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert sixel_sequence(png, SCREEN) is None
    assert kitty_sequence(jpeg, SCREEN) is None
    assert kitty_sequence(png, SCREEN) is not None
    assert iterm_sequence(jpeg, SCREEN) is not None


@pytest.mark.parametrize("data", [b"", b"\x1b[2J", image()[:-20], b"\x89PNG\r\n\x1a\n\x1b[2J"])
def test_a_damaged_file_is_not_displayed(data: bytes) -> None:
    for make in (sixel_sequence, kitty_sequence, iterm_sequence):
        assert make(data, SCREEN) is None


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({}, None),
    ],
)
def test_the_environment_names_the_terminal(environment: dict[str, str], protocol: str | None) -> None:
    assert protocol_by_environment(environment) == protocol


@pytest.mark.parametrize(
    ("displayed", "setting", "protocol"),
    [
        (None, "", "kitty"),
        (False, "kitty", None),
        (None, "off", None),
        (True, "off", "kitty"),
        (None, "sixel", "sixel"),
    ],
)
def test_the_option_takes_precedence_over_the_setting(
    displayed: bool | None, setting: str, protocol: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    environment = {"TERM": "xterm-kitty", "UMRGEN_DISPLAY": setting}
    assert chosen_protocol(displayed, environment) == protocol
    assert chosen_protocol(displayed, environment | {"TERM": "dumb"}) is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert chosen_protocol(displayed, environment) is None


def test_tmux_gets_wrapped_sequences_and_its_own_sixel() -> None:
    tmux = {"TMUX": "/tmp/tmux-0/default,1,0", "TERM": "tmux-256color"}
    assert in_multiplexer(tmux)
    assert in_multiplexer({"TERM": "screen-256color"})
    assert not in_multiplexer({"TERM": "xterm-kitty"})
    assert passed_through(b"\x1b_Gm=1;QQ==\x1b\\\x1b_Gm=0;QQ==\x1b\\", tmux) == (
        b"\x1bPtmux;\x1b\x1b_Gm=1;QQ==\x1b\x1b\\\x1b\\\x1bPtmux;\x1b\x1b_Gm=0;QQ==\x1b\x1b\\\x1b\\"
    )
    assert passed_through(b"\x1b]1337;File=:QQ==\x07", tmux) == b"\x1bPtmux;\x1b\x1b]1337;File=:QQ==\x07\x1b\\"
    assert passed_through(b"\x1bP0;1q\x1b\\", tmux) == b"\x1bP0;1q\x1b\\"
    assert passed_through(b"\x1b_GQQ==\x1b\\", {"STY": "1"}) == b"\x1b_GQQ==\x1b\\"


class TestQuery:
    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
        """Both ends of a terminal whose foreground process this is."""
        ours, theirs = pty.openpty()
        monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp())
        yield ours, theirs
        os.close(ours)
        os.close(theirs)

    def responding(self, ours: int, response: bytes) -> threading.Thread:
        def respond() -> None:
            received = b""
            while QUERY not in received:
                received += os.read(ours, 100)
            for part in (response[:3], response[3:]):
                os.write(ours, part)

        thread = threading.Thread(target=respond)
        thread.start()
        return thread

    def test_a_terminal_with_sixel(self, terminal: tuple[int, int]) -> None:
        ours, theirs = terminal
        before = termios.tcgetattr(theirs)
        thread = self.responding(ours, b"\x1b[?62;4;22c")
        assert attributes_of(os.dup(theirs)) == {62, 4, 22}
        thread.join()
        assert termios.tcgetattr(theirs) == before, "the mode is restored"

    def test_a_terminal_that_does_not_respond(self, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("umrgen.cli.display.detection.RESPONSE_TIME", 0.01)
        before = termios.tcgetattr(terminal[1])
        assert attributes_of(os.dup(terminal[1])) == frozenset()
        assert termios.tcgetattr(terminal[1]) == before

    @pytest.mark.timeout(20)  # without the line that it guards, it waits without end
    def test_typed_input_is_kept(self, terminal: tuple[int, int]) -> None:
        ours, theirs = terminal
        os.write(ours, b"ls\n")
        assert attributes_of(os.dup(theirs)) == frozenset()
        assert os.read(theirs, 10) == b"ls\n"

    def test_nothing_is_sent_from_the_background(
        self, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp() + 1)
        monkeypatch.setattr(termios, "tcsetattr", lambda *arguments: pytest.fail("this would stop the process"))
        assert attributes_of(os.dup(terminal[1])) == frozenset()

    def test_without_a_terminal(self) -> None:
        assert attributes_of(None) == frozenset()
        read, write = os.pipe()
        assert attributes_of(read) == frozenset()
        os.close(write)


def test_the_size_of_a_cell_is_typical_where_the_terminal_does_not_state_it() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    assert Screen.of(theirs) == Screen(100, 30, 8, 16)
    os.close(ours)
    os.close(theirs)
    read, write = os.pipe()
    assert Screen.of(read) == Screen()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("size", [(1, 1), (16, 4096), (4096, 16), (512, 512)])
def test_an_image_fits_the_screen(size: tuple[int, int]) -> None:
    columns, rows = SCREEN.area(*size)
    assert 1 <= columns <= 79
    assert 1 <= rows <= 20
