"""Primitives of the procedural engine: coordinates, noise, terrain, shapes, and bloom."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Canvas", "bloom", "mix", "resize", "smooth"]

Array: TypeAlias = NDArray[Any]
_CELLS = 128  # the width and height of the random lattice, which repeats


def smooth(low: float, high: float, value: Array) -> Array:
    """Return a smooth step: 0 below `low`, 1 above `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(first: Any, second: Any, share: Any) -> Any:
    """Interpolate from `first` (share 0) to `second` (share 1)."""
    return first + (second - first) * share


def vector(colour: Any) -> Array:
    """Return a colour as an array of shape (3, 1, 1), which broadcasts over pixels."""
    return np.asarray(colour, np.float32).reshape(3, 1, 1)


def resize(picture: Array, height: int, width: int) -> Array:
    """Resize the last two axes of an image by bilinear interpolation."""
    for axis, size in ((-2, height), (-1, width)):
        old = picture.shape[axis]
        if old == size:
            continue
        at = np.clip((np.arange(size) + 0.5) * (old / size) - 0.5, 0, old - 1).astype(np.float32)
        low = at.astype(np.intp)
        part = at - low
        first = np.take(picture, low, axis)
        second = np.take(picture, np.minimum(low + 1, old - 1), axis)
        second -= first
        second *= part[:, None] if axis == -2 else part
        second += first
        picture = second
    return picture


def _halve(picture: Array) -> Array:
    height, width = (max(1, size // 2) for size in picture.shape[-2:])
    even = picture[:, : height * 2, : width * 2]
    if min(picture.shape[-2:]) < 2:
        return resize(picture, height, width)
    return (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) * 0.25


def bloom(picture: Array, threshold: float) -> Array:
    """Return the glow around pixels brighter than `threshold`, at a quarter of the size: a pyramid of blurs."""
    bright = np.maximum(_halve(_halve(picture)) - threshold, 0)
    np.minimum(bright, 6, out=bright)
    levels = [bright]
    while len(levels) < 6 and min(levels[-1].shape[-2:]) > 4:
        levels.append(_halve(levels[-1]))
    spill = levels.pop()
    while levels:
        finer = levels.pop()
        padded = np.pad(resize(spill, *finer.shape[-2:]), ((0, 0), (1, 1), (1, 1)), mode="edge")
        across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
        spill = finer * 0.5 + (across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 16
    return spill


class Canvas:
    """An image in linear light, with coordinates in units that fit the composition to any aspect ratio.

    `x` increases from the middle to the right, `y` from the horizon down. The scene depends on the key only, not on the
    size in pixels. `detail` is the number of noise octaves in addition to the minimum.
    """

    def __init__(
        self, width: int, height: int, key: str, horizon: float, detail: int, shift: tuple[float, float]
    ) -> None:
        low, high = sorted((width, height))
        unit = min(low**0.75 * high**0.25, low * 1.25)
        self.width, self.height, self.key, self.detail = width, height, key, detail
        self.pixel = 1 / unit
        self.x = ((np.arange(width) + 0.5 + shift[0] - width / 2) / unit).astype(np.float32)[None, :]
        self.y = ((np.arange(height) + 0.5 + shift[1] - horizon * height) / unit).astype(np.float32)[:, None]
        self.horizon = min(max(int(np.searchsorted(self.y[:, 0], 0)), 1), height - 1)
        # The edges without the shift: objects are placed by them, and must be the same in each sample.
        self.top, self.bottom = -horizon * height / unit, (1 - horizon) * height / unit
        self.edge = width / 2 / unit
        self.rgb = np.zeros((3, height, width), np.float32)
        self._lattice = self.random("lattice").random(_CELLS * _CELLS, np.float32)
        a = self._lattice.reshape(_CELLS, _CELLS)
        right, below = np.roll(a, -1, 1), np.roll(a, -1, 0)
        twist = np.roll(below, -1, 1) - right - below + a
        # The four coefficients of a cell are one complex number: one lookup reads all of them.
        self._patches = np.stack([a, right - a, below - a, twist], -1).view(np.complex128).ravel()

    def random(self, name: str) -> np.random.Generator:
        """Return a random generator for `name`: an object that is left out changes no other object."""
        digest = hashlib.sha256(f"{self.key}\0{name}".encode("utf-8", "surrogatepass")).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))

    def chance(self, index: Array) -> Array:
        """Return a random number, 0 to 1, for each integer."""
        return np.take(self._lattice, (index * 40503 + 977) & (_CELLS * _CELLS - 1))

    def noise(self, u: Array, v: Array) -> Array:
        """Return smooth value noise, 0 to 1."""
        iu, iv = np.floor(u), np.floor(v)
        fu, fv = u - iu, v - iv
        fu *= fu * (3 - 2 * fu)
        fv *= fv * (3 - 2 * fv)
        cell = (iu.astype(np.intp) & (_CELLS - 1)) + (iv.astype(np.intp) & (_CELLS - 1)) * _CELLS
        corners = self._patches.take(cell).view(np.float32).reshape(*cell.shape, 4)
        result: Array = corners[..., 3] * fu
        result += corners[..., 2]
        result *= fv
        fu = fu * corners[..., 1]
        result += fu
        result += corners[..., 0]
        return result

    def fbm(self, name: str, u: Array, v: Array, octaves: int, gain: float = 0.5, ridged: bool = False) -> Array:
        """Return fractal noise, 0 to 1: each octave is finer, rotated (to hide the lattice), `gain` times as strong."""
        start = self.random(name).random(2, np.float32) * _CELLS
        u, v = u + start[0], v + start[1]
        total: Array = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
        weight, whole = 1.0, 0.0
        for _ in range(octaves):
            layer = self.noise(u, v)
            if ridged:
                layer = 1 - np.abs(2 * layer - 1)
                layer *= layer
            total += layer * weight
            whole += weight
            weight *= gain
            u, v = 1.62 * u - 1.18 * v + 7.3, 1.18 * u + 1.62 * v + 3.1
        total /= whole
        return total

    def veil(self, name: str, across: float, down: float, octaves: int, rows: slice = slice(None)) -> Array:
        """Return noise over `rows`, computed at a third of the size: for objects without edges."""
        y = self.y[rows]
        if not y.size:
            return np.zeros((0, self.width), np.float32)
        height, width = max(y.size // 3, 1), max(self.width // 3, 1)
        u, v = resize(self.x, 1, width) * across, resize(y, height, 1) * down
        return resize(self.fbm(name, u, v, octaves), y.size, self.width)

    def box(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """Return the rows and columns of a rectangle, given in units, as slices that may be empty."""
        columns = np.searchsorted(self.x[0], (left, right))
        rows = np.searchsorted(self.y[:, 0], (top, bottom))
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))

    def cover(self, where: tuple[slice, slice], colour: Array, alpha: Array) -> None:
        """Blend `colour` into the pixels of `where`."""
        part = self.rgb[:, where[0], where[1]]
        part += (colour - part) * alpha

    def polygon(self, points: list[tuple[float, float]], colour: Array, curve: float = 0.0) -> None:
        """Draw a convex polygon, with its corners clockwise on the screen; `curve` shades it like a column."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        pad = self.pixel
        where = self.box(min(xs) - pad, min(ys) - pad, max(xs) + pad, max(ys) + pad)
        x, y = self.x[:, where[1]], self.y[where[0]]
        if not x.size or not y.size:
            return
        inside: Array = np.full((y.size, x.size), np.inf, np.float32)
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            length = max(float(np.hypot(bx - ax, by - ay)), 1e-6)
            np.minimum(inside, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length, out=inside)
        across = (x - min(xs)) / max(max(xs) - min(xs), 1e-6) * 2 - 1
        self.cover(where, vector(colour) * (1 - curve * across**2), np.clip(inside / pad + 0.5, 0, 1))

    def splat(self, x: Array, y: Array, radius: float, colour: Any) -> None:
        """Add soft dots of light at (`x`, `y`); `colour` has the shape (3,) or (3, n)."""
        reach = max(1, min(int(np.ceil(radius / self.pixel * 2.5)), 40))
        sigma = max(radius / self.pixel, 0.6)
        column = (x - self.x[0, 0]) / self.pixel
        row = (y - self.y[0, 0]) / self.pixel
        light = np.broadcast_to(np.asarray(colour, np.float32).reshape(3, -1), (3, x.size))
        light = light * min(1.0, (radius / self.pixel / 0.6) ** 2)
        flat = self.rgb.reshape(3, -1)
        near_c, near_r = np.rint(column).astype(np.intp), np.rint(row).astype(np.intp)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                c, r = near_c + dx, near_r + dy
                ok = (c >= 0) & (c < self.width) & (r >= 0) & (r < self.height)
                fall = np.exp(-((c - column) ** 2 + (r - row) ** 2) / (2 * sigma * sigma)).astype(np.float32)
                at = (r * self.width + c)[ok]
                for channel in range(3):
                    np.add.at(flat[channel], at, (light[channel] * fall)[ok])

    def streaks(self, x: Array, y: Array, length: float, lean: float, light: float) -> None:
        """Add thin slanted streaks, which are brighter in front of bright pixels."""
        count = max(2, int(length / self.pixel))
        t = np.arange(count)[:, None]
        column = (x - self.x[0, 0]) / self.pixel + t * lean
        row = ((y - self.y[0, 0]) / self.pixel).astype(np.intp) + t
        fade = (np.sin(np.pi * (t + 0.5) / count) * light).astype(np.float32)
        flat = self.rgb.reshape(3, -1)
        left = np.floor(column).astype(np.intp)
        for shift in (0, 1):
            c = left + shift
            ok = (c >= 0) & (c < self.width) & (row >= 0) & (row < self.height)
            share = (1 - np.abs(column - c).astype(np.float32)) * fade
            at = (row * self.width + c)[ok]
            for channel in range(3):
                plane = flat[channel]
                np.add.at(plane, at, share[ok] * (0.1 + np.minimum(plane[at], 1.2)))

    def mirror(self, base: Array, slope: Array, rows: slice, strength: Array) -> None:
        """Blend into `rows` the mirror image of the pixels above the line `base`, displaced by `slope` (in units)."""
        y = self.y[rows]
        source = (2 * base - y - self.y[0, 0] + slope) / self.pixel
        limit = np.clip((base - self.y[0, 0]) / self.pixel - 1, 0, self.height - 1)
        row = np.clip(source, 0, limit).astype(np.intp)
        shift = np.clip(slope * 0.35 / self.pixel + np.arange(self.width), 0, self.width - 1).astype(np.intp)
        at = row * self.width + shift
        for plane in self.rgb:
            part = plane[rows]
            part += (plane.reshape(-1).take(at) - part) * strength

    def terrain(
        self,
        camera: float,
        far: float,
        height: Callable[[Array, Array], Array],
        paint: Callable[[Array, Array, Array, Array, Array], tuple[Array, Array]],
    ) -> Array:
        """Draw terrain, seen from the height `camera`: `height(x, z)`, coloured by `paint(x, z, h, dh/dx, dh/dz)`.

        The terrain is computed in slices from near to far; the part of a slice above all nearer slices is visible. So
        the functions run for each slice and column, and a pixel only selects its slice. Returns the y of the skyline.
        """
        near = camera / (self.bottom * 1.1 + 1e-3)
        count = 96 + min(self.height // 5, 320)
        z = (near * (far / near) ** np.linspace(0, 1, count)).astype(np.float32)[:, None]
        x = self.x * z
        land = height(x, z)
        rows = np.minimum.accumulate((camera - land) / z, axis=0)
        rows -= self.y[0, 0]
        rows /= self.pixel
        along = np.gradient(land, axis=1) / (z * self.pixel) if self.width > 1 else land * 0
        away = np.gradient(land, axis=0) / np.gradient(z, axis=0)
        colour, alpha = paint(x, z, land, along, away)
        first = np.clip(np.ceil(rows), 0, self.height).astype(np.intp)
        size = (self.height + 1) * self.width
        starts = np.bincount((first * self.width + np.arange(self.width)).ravel(), minlength=size)
        seen = np.cumsum(starts.reshape(-1, self.width)[:-1], axis=0)
        top = int(first[-1].min())
        flat, grid, opaque = rows.reshape(-1), colour.reshape(3, -1), alpha.reshape(-1)
        for start in range(top, self.height, 64):
            part = slice(start, min(start + 64, self.height))
            mine = count - seen[part]
            share = (mine < count).astype(np.float32)
            mine = np.minimum(mine, count - 1)
            at = mine * self.width + np.arange(self.width)
            nearer = np.maximum(mine - 1, 0) * self.width + np.arange(self.width)
            lower = flat.take(at)
            line = np.arange(part.start, part.stop, dtype=np.float32)[:, None]
            between = np.clip((line - lower) / np.maximum(flat.take(nearer) - lower, 1e-3), 0, 1)
            share *= mix(opaque.take(at), opaque.take(nearer), between)
            for plane, values in zip(self.rgb, grid, strict=True):
                piece = plane[part]
                piece += (mix(values.take(at), values.take(nearer), between) - piece) * share
        skyline: Array = rows[-1] * self.pixel + self.y[0, 0]
        return skyline
