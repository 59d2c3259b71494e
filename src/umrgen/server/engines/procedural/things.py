"""Objects of the procedural engine: city, street, lighthouse, boat, forest."""

import numpy as np

from umrgen.server.engines.procedural.nature import Light
from umrgen.server.engines.procedural.paint import Array, Canvas, mix, resize, smooth, vector
from umrgen.server.engines.procedural.words import Scene

_NEON = ((1.0, 0.05, 0.42), (0.05, 0.75, 1.0), (1.0, 0.32, 0.04), (0.55, 0.12, 1.0), (0.1, 1.0, 0.55))


# --- the city --------------------------------------------------------------------------------------------


def _windows(c: Canvas, across: Array, up: Array, owner: Array, lit: float) -> Array:
    """Return the brightness of windows. The unit of `across` and `up` is a window; `owner` numbers the building."""
    column, row = np.floor(across), np.floor(up)
    inside = smooth(0.12, 0.2, across - column) * smooth(0.88, 0.8, across - column)
    inside = inside * (smooth(0.2, 0.3, up - row) * smooth(0.85, 0.75, up - row))
    luck = c.chance((column * 7 + row * 131 + owner * 977).astype(np.intp))
    result: Array = inside * np.maximum(luck - (1 - lit), 0) / lit
    return result


def skyline(c: Canvas, s: Scene, light: Light, depth: float) -> None:
    """Paint one row of towers; `depth` is 0 for the farthest row, 1 for the nearest."""
    rng = c.random(f"skyline{depth}")
    ends = np.cumsum(rng.uniform(0.035, 0.09, 120) * (0.6 + 0.7 * depth)) - 2.2
    owner = np.searchsorted(ends, c.x[0]).clip(0, 119)[None, :]
    centre = 0.25 + 0.75 * np.exp(-((ends / 0.45) ** 2))
    tall = (0.10 + rng.random(120) ** 2 * 0.42 * (1.1 - 0.5 * depth)) * centre
    top = np.take(tall, owner).astype(np.float32)
    inner = (np.take(ends, owner) - c.x) / np.take(np.diff(ends, append=9.0), np.maximum(owner - 1, 0))
    top -= (np.abs(inner - 0.5) > 0.3) * (owner % 3 == 0) * top * 0.13
    rows = slice(*np.searchsorted(c.y[:, 0], (-float(tall.max()), 0.0)))
    y = c.y[rows]
    night = light.colour.max() < 1
    body = vector(light.ambient) * (0.55 if night else 0.8)
    size = 0.0052 + 0.0035 * depth
    glass = _windows(c, c.x / size, -y / size / 1.3, owner, 0.42 if night else 0.08)
    warm = mix(vector((1.0, 0.55, 0.22)), vector((0.5, 0.75, 1.0)), np.take(rng.random(120), owner)[None])
    tone = 0.7 + 0.3 * np.take(rng.random(120), owner)[None]
    colour = body * tone + glass * warm * (1.5 if night else 0.4)
    veil = (1 - depth) * 0.75 * (0.55 + 0.45 * np.exp(y * 6))
    colour = mix(colour, vector(light.haze), veil)
    c.cover((rows, slice(None)), colour.astype(np.float32), smooth(-c.pixel, c.pixel, y + top))


def street(c: Canvas, s: Scene, light: Light) -> None:
    """Paint a street between walls: each column of pixels has one depth, so few values are computed."""
    neon = neon_colours(s)
    wall, eye, rng = 0.5 * max(1.0, c.edge * 2) ** 0.8, 0.2, c.random("street")
    ax = np.abs(c.x) + 0.004
    z = wall / ax
    side = (c.x > 0).astype(np.intp)
    owner = np.floor(z / 0.85).astype(np.intp) * 2 + side
    tall = (1.0 + 4.2 * c.chance(owner * 13 + 5) ** 1.3) * smooth(18, 9, z) + smooth(1.4, 0.4, z) * 4
    up = eye - c.y * z
    mask = smooth(0, 1.5, (tall - up) / (z * c.pixel)) * (up > 0)
    tone = c.chance(owner * 7 + 1)
    glass = _windows(c, z / 0.105 + 0.2, up / 0.15, owner, 0.34) * smooth(0.26, 0.4, up)
    hues = np.array([neon[1], (1.35, 0.62, 0.22), (1.35, 0.62, 0.22), neon[0], neon[3]], np.float32) * 0.8
    warm = hues.T[:, (tone * 4.999).astype(np.intp)]
    coarse = resize(z, 1, c.width // 3 + 1)
    grime = c.fbm("grime", coarse * 3, (eye - resize(c.y, c.height // 3 + 1, 1) * coarse) * 0.7, 3)
    grime = 0.4 + resize(grime, c.height, c.width)
    spill = np.exp(np.clip(up, 0, 20) * -0.9)
    face = (vector((0.010, 0.012, 0.022)) + vector(neon[1]) * 0.045 * spill + vector(neon[0]) * 0.03) * grime
    panes = _windows(c, z / 0.13, up / 0.3 + 0.05, owner + 3, 0.9) * smooth(0.02, 0.06, up) * (up < 0.3)
    context = panes * (0.45 + 0.8 * c.noise(z * 24, up * 22))
    face = face + glass * warm * (0.9 + 0.9 * tone) + context * (warm + vector(neon[2]) * 0.15) * 1.7
    face = mix(face, vector(light.haze), (1 - np.exp(z * -0.11)))
    c.cover((slice(None), slice(None)), face, mask)
    for depth in np.sort(rng.uniform(0.75, 7.5, 34) * wall * 2)[::-1]:
        _sign(c, float(depth), wall, eye, neon, rng)
    base = eye * ax / wall
    floor = c.y - base
    rows = slice(c.horizon, c.height)
    ground = floor[rows] > 0
    far = 1 / (c.y[rows] + 0.01)
    puddle = smooth(0.35, 0.62, c.fbm("puddle", c.x * far * 1.3, far * 1.6, 4))
    ripple = (c.fbm("ripple", c.x * far * 9, far * 12, 3) - 0.5) * (0.22 - 0.17 * puddle)
    wet = s.has("rain")
    asphalt = vector(light.haze * 0.12 + 0.004) * (0.7 + 0.5 * puddle)
    c.cover((rows, slice(None)), asphalt, ground.astype(np.float32))
    shine = (0.34 + 0.46 * puddle if wet else 0.1 + 0.12 * puddle) * ground
    c.mirror(base, ripple * (0.02 + c.y[rows]), rows, shine.astype(np.float32))


def neon_colours(s: Scene) -> tuple[tuple[float, float, float], ...]:
    """Return the colours of signs and windows: first those of the prompt."""
    return (s.colours + _NEON)[:5]


def _sign(
    c: Canvas,
    z: float,
    wall: float,
    eye: float,
    neon: tuple[tuple[float, float, float], ...],
    rng: np.random.Generator,
) -> None:
    """Paint a neon sign on the wall: a dark plate with glowing glyphs and a tube around it."""
    side, upright = (-1 if rng.random() < 0.5 else 1), rng.random() < 0.75
    wide, tall = (0.13, rng.uniform(0.35, 0.85)) if upright else (rng.uniform(0.2, 0.3), 0.13)
    foot = rng.uniform(0.38, 1.6)
    colour = np.array(neon[int(rng.integers(len(neon)))], np.float32) * mix(0.35, 1.0, np.exp(z * -0.12))
    outer = side * (wall - 0.01) / z
    left = min(outer, outer - side * wide / z)
    top, bottom = (eye - foot - tall) / z, (eye - foot) / z
    where = c.box(left, top, left + wide / z, bottom)
    u, v = (c.x[:, where[1]] - left) * z, (c.y[where[0]] - top) * z
    salt = int(rng.integers(1 << 20))
    if not u.size or not v.size:
        return
    border = np.minimum(np.minimum(u, wide - u), np.minimum(v, tall - v))
    tube = np.exp(-(((border - 0.012) / 0.006) ** 2))
    cell = 0.022
    glyph = c.chance(np.floor(u / cell).astype(np.intp) * 31 + np.floor(v / cell).astype(np.intp) * 57 + salt)
    gap = ((u if not upright else v) % 0.12 > 0.022) & (border > 0.026)
    glow = tube + (glyph > 0.48) * gap * 0.9
    plate = vector(colour) * (0.10 + 1.9 * glow) + vector((0.25, 0.25, 0.25)) * glow
    c.cover(where, plate.astype(np.float32), np.ones_like(glow))
    halo = 0.35 / z
    centre = (left + wide / z / 2, (top + bottom) / 2)
    rows, columns = c.box(centre[0] - halo, top - halo, centre[0] + halo, bottom + halo)
    beyond = np.maximum(np.abs(c.y[rows] - centre[1]) - tall / z / 2, 0)
    away = ((c.x[:, columns] - centre[0]) ** 2 + beyond**2) * (3.2 / halo**2)
    edge = np.clip(1 - away / 3.2, 0, 1)
    c.rgb[:, rows, columns] += np.exp(-away) * edge * vector(colour) * 0.10


# --- objects in front -----------------------------------------------------------------------------------


def _pine(c: Canvas, x: float, foot: float, tall: float, colour: Array, snow: float, salt: int) -> None:
    wide = tall * 0.21
    rows, columns = where = c.box(x - wide, foot - tall, x + wide, foot + 0.01 * tall)
    across, t = (c.x[:, columns] - x) / wide, (c.y[rows] - foot + tall) / tall
    if not across.size or not t.size:
        return
    fine = max(1.0, tall / 0.3)
    ragged = c.noise(across * 7 * fine + salt, t * 26 * fine + salt * 3)
    ragged = ragged * 0.6 + c.noise(across * 26 * fine + salt, t * 70 * fine) * 0.4
    tier = t**0.85 * (13 + salt % 5 + 3 * fine) - np.abs(across) * 1.1 + (ragged - 0.5) * 1.1 + across * 0.5
    saw = tier % 1.0
    reach = np.abs(across) + (ragged - 0.5) * 0.17 * t
    inside = smooth(0.04, -0.04, reach - t**0.9 * (0.5 + 0.45 * saw))
    inside *= t + 0.05 * across**2 + 0.1 * ragged < 1.0
    inside = np.maximum(inside, (np.abs(across) < 0.05) * (t > 0.5))
    cap = smooth(0.62, 0.25, saw) * smooth(0.25, 0.5, ragged + 0.25 * np.abs(across)) * snow
    dark = colour * (0.35 + 0.5 * np.abs(across) + 0.5 * saw)
    c.cover(where, mix(dark, vector((0.66, 0.74, 0.88)) * snow, np.minimum(cap * 1.5, 0.92)), inside)


def forest(c: Canvas, s: Scene, light: Light) -> None:
    """Paint rows of pines: far rows with haze, near rows with a gap in the middle."""
    rng = c.random("forest")
    bright = float(light.colour.mean() * 0.35 + light.ambient.mean() * 1.2)
    bright *= 0.25 if 0.05 < -light.y < 0.3 and light.colour.max() > 0.5 else 1.0  # against the light
    beside = s.has("mountains", "lake", "river", "sea")
    layers = ((0.02, 110, 0.10, 0.78), (0.05, 30, 0.20, 0.55), (0.12, 15, 0.36, 0.28), (0.28, 8, 0.66, 0.06))
    if beside:
        layers = (*layers[:2], (0.12, 34, 0.4, 0.06), (0.28, 14, 0.62, 0.03))
    for index, (foot, count, tall, veil) in enumerate(layers):
        if beside and index < 2:
            continue
        spread = c.edge * 1.05
        for x in np.sort(rng.uniform(-spread, spread, count)):
            size, drop, salt = tall * rng.uniform(0.6, 1.15), rng.uniform(-0.01, 0.03), int(rng.integers(999))
            opening = smooth(0.0, 0.30, np.abs(np.float32(x) - light.x * 0.5)) if index > 1 else 1.0
            if beside or (index > 1 and opening < 0.85):
                size *= 0.35 + 0.4 * float(opening)
            if index > 1 and opening < 0.5:
                continue
            base = vector((0.022, 0.045, 0.028)) * (0.12 + 1.9 * bright)
            colour = mix(base, vector(light.ambient if beside else light.haze) * 0.8, veil)
            snow = (0.22 + bright * 0.9) * (1 - veil * 0.4) if s.has("snow") else 0.0
            lift = c.bottom - 0.1 if beside else foot + drop
            _pine(c, float(x), lift + index * 0.05 if beside else lift, size, colour, snow, salt)
        if s.has("mist", "snow") and index < 3 and not beside:
            reach = 0.05 + foot * 0.6
            rows, _ = c.box(0, foot - 2.2 * reach, 0, foot + 2.2 * reach)  # over the whole width
            low = np.exp(-(((c.y[rows] - foot) / reach) ** 2))
            c.cover((rows, slice(None)), vector(light.haze), low * c.veil(f"breath{index}", 2.2, 9, 3, rows) * 0.42)


def lighthouse(c: Canvas, s: Scene, light: Light, side: float, skyline: Array) -> None:
    """Paint a lighthouse on the `skyline` of its cliff, with its lamp and beam."""
    x, tall = side * 0.235 * min(c.edge * 2, 1.3), 0.285
    columns = c.box(x - 0.036, 0, x + 0.036, 0)[1]
    foot = float(skyline[columns].max(initial=-9)) + 0.004
    if foot < -1:
        return
    ambient = light.colour * 0.3 + light.ambient * 0.9
    top, r0, r1 = foot - tall, 0.034, 0.022
    for band in range(5):
        a, b = band / 5, (band + 1) / 5
        ra, rb = mix(r0, r1, a), mix(r0, r1, b)
        ya, yb = mix(foot + 0.02, top, a), mix(foot + 0.02, top, b)
        paint = np.array((0.62, 0.09, 0.07) if band % 2 else (0.85, 0.83, 0.8)) * ambient
        c.polygon([(x - rb, yb), (x + rb, yb), (x + ra, ya), (x - ra, ya)], paint, 0.65)
    iron, lamp_y = ambient * 0.08, top - 0.02
    glow = np.array((1.0, 0.82, 0.5)) * (2.4 if light.colour.max() < 1.2 else 1.2)

    def part(upper: float, lower: float, y: float, height: float, colour: Array) -> None:
        c.polygon([(x - upper, y - height), (x + upper, y - height), (x + lower, y), (x - lower, y)], colour)

    part(0.036, 0.044, foot + 0.026, 0.012, ambient * 0.12)
    part(0.031, 0.027, top + 0.008, 0.012, iron)
    part(0.015, 0.016, top - 0.004, 0.032, glow)
    part(0.002, 0.021, lamp_y - 0.016, 0.029, iron * 2)
    for floor in (0.25, 0.55):
        part(0.004, 0.004, mix(foot, top, floor), 0.011, glow * 0.5)
    power = 1.0 if light.colour.max() < 1.2 else 0.12
    near = c.box(x - 0.35, lamp_y - 0.35, x + 0.35, lamp_y + 0.35)
    halo = np.exp(np.hypot(c.x[:, near[1]] - x, c.y[near[0]] - lamp_y) * -16) * (0.7 * power)
    c.rgb[:, near[0], near[1]] += halo * vector((1.0, 0.75, 0.42))
    drift = 0.7 + 0.6 * c.veil("beam", 5, 5, 3) if s.has("storm", "rain", "mist") else np.full((1, c.width), 0.8)
    for turn, strength in ((-side, 0.85), (side, 0.35)):
        columns = c.box(x, 0, 9, 0)[1] if turn > 0 else c.box(-9, 0, x, 0)[1]
        nx, ny = turn * 0.985, 0.17 * turn * side
        dx, dy = c.x[:, columns] - x, c.y - lamp_y
        ahead = np.maximum(dx * nx + dy * ny, 0)
        beam = np.exp(-(((dx * ny - dy * nx) / (0.010 + 0.10 * ahead)) ** 2) - ahead * 1.5)
        beam *= smooth(0.0, 0.03, ahead) / (1 + 2.2 * ahead) * (power * strength)
        beam *= drift[:, columns]
        for plane, tint in zip(c.rgb, (1.0, 0.86, 0.6), strict=True):
            plane[:, columns] += beam * tint


def boat(c: Canvas, s: Scene, light: Light) -> None:
    """Paint a sailing boat and its mirror image."""
    x = -float(np.sign(light.x) or 1) * 0.14 * min(c.edge * 2, 1)
    water, size = 0.055, 0.2
    cloth = light.colour * 0.42 + light.haze * 0.35 + light.ambient * 0.4
    hull = np.array((0.05, 0.028, 0.02), np.float32) * (0.25 + light.colour)
    parts = (
        ([(0.02, -1.0), (0.46, -0.16), (0.02, -0.14)], cloth),
        ([(-0.02, -0.92), (-0.02, -0.14), (-0.32, -0.14)], cloth * 0.72),
        ([(-0.008, -1.04), (0.008, -1.04), (0.008, -0.05), (-0.008, -0.05)], hull * 0.6),
        ([(-0.42, -0.11), (0.52, -0.13), (0.36, 0.0), (-0.32, 0.0)], hull),
    )
    before = c.rgb.copy()
    for points, colour in parts:
        c.polygon([(x + px * size, water - py * size * 0.9) for px, py in points][::-1], colour * 0.7)
    rows = slice(*np.searchsorted(c.y[:, 0], (water, water + size)))
    shake = (c.fbm("wake", c.x * 14, c.y[rows] * 110, 3) - 0.5) * (c.y[rows] - water + 0.01) * 0.5 / c.pixel
    at = np.clip(np.arange(c.width) + shake, 0, c.width - 1).astype(np.intp)
    image = np.stack([np.take_along_axis(plane[rows], at, 1) for plane in c.rgb])
    still = 0.8 * smooth(water + size, water, c.y[rows])
    c.rgb[:, rows] = mix(before[:, rows], image, still)
    for points, colour in parts:
        c.polygon([(x + px * size, water + py * size) for px, py in points], colour)
