"""A watermark for tests: each bit is the parity of the quantized mean of many blocks. It is no robust one."""

import numpy as np
from numpy.typing import NDArray

SIDE = 8
STEP = 6.0
MAGIC = 0xA5C3


class ParityWatermark:
    """Repeats the payload and a check of 16 bits over the blocks of 8 × 8 pixels."""

    def embed(self, pixels: NDArray[np.uint8], payload: bytes) -> NDArray[np.uint8]:
        bits = _bits(payload)
        marked = pixels.astype(np.float64)
        rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
        for at in range(rows * columns):
            y, x = at // columns * SIDE, at % columns * SIDE
            block = marked[y : y + SIDE, x : x + SIDE]
            mean = float(np.clip(block.mean(), 2 * STEP, 255 - 2 * STEP))
            level = 2 * round((mean / STEP - bits[at % len(bits)]) / 2) + bits[at % len(bits)]
            block += level * STEP - block.mean()
        return np.clip(marked.round(), 0, 255).astype(np.uint8)

    def detect(self, pixels: NDArray[np.uint8]) -> bytes | None:
        rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
        votes = np.zeros(80)
        for at in range(rows * columns):
            y, x = at // columns * SIDE, at % columns * SIDE
            level = round(float(pixels[y : y + SIDE, x : x + SIDE].mean()) / STEP)
            votes[at % 80] += 1 if level % 2 else -1
        found = np.packbits(votes > 0).tobytes()
        return found[:8] if int.from_bytes(found[8:]) == MAGIC else None


class FailingWatermark:
    """Fails at everything."""

    def embed(self, pixels: NDArray[np.uint8], payload: bytes) -> NDArray[np.uint8]:
        raise RuntimeError

    def detect(self, pixels: NDArray[np.uint8]) -> bytes | None:
        raise RuntimeError


def _bits(payload: bytes) -> list[int]:
    return [int(bit) for bit in np.unpackbits(np.frombuffer(payload + MAGIC.to_bytes(2), np.uint8))]
