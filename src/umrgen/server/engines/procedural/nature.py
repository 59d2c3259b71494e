"""Landscapes of the procedural engine: sky, land, water, weather; and abstract images for other prompts."""

from dataclasses import dataclass

import numpy as np

from umrgen.server.engines.procedural.paint import Array, Canvas, mix, resize, smooth, vector
from umrgen.server.engines.procedural.words import Scene

_GREY_STORM = np.array([0.035, 0.05, 0.068], np.float32)


@dataclass(frozen=True, slots=True)
class Light:
    """The light of one scene: its colour times its power, its position, and the colours of haze and shadow."""

    colour: Array
    x: float
    y: float
    haze: Array
    ambient: Array


# --- the sky ---------------------------------------------------------------------------------------------


def sky(c: Canvas, s: Scene) -> Light:
    """Paint the sky and its glow over the whole canvas; return the light of the scene."""
    look = s.look
    stops = np.array([look.zenith, look.middle, look.horizon], np.float32)
    dark = 0.9 if s.has("storm") else 0.55 if s.has("rain", "clouds") and not s.has("street") else 0.0
    grey = _GREY_STORM * (2.5 if look.power > 1 else 1.0 if look.power > 0.5 else 0.25)
    stops = mix(stops, grey, dark * np.array([[0.95], [0.8], [0.35]], np.float32))
    height = np.clip(1 - c.y[:, 0] / min(c.top, -1e-3), 0, 1)
    # A quadratic curve through the three colours: linear pieces would have a visible edge.
    weights = np.stack([(1 - height) ** 2, 2 * height * (1 - height) * 1.15, height**2])
    c.rgb[:] = (weights[:, None] * stops[:, :, None]).sum(0)[:, :, None]
    spot = c.random("light")
    x = float(spot.uniform(-0.6, 0.6)) * min(c.edge, 0.5)
    y = max(-look.height, c.top * 0.72)
    if s.has("mountains") and 0 < look.height < 0.3:
        y -= 0.1  # above the peaks, which would hide it
    light = np.asarray(look.light, np.float32) * look.power * (0.45 if dark > 0.6 else 1)
    sky = c.y[: c.horizon]
    away = np.sqrt((c.x - x) ** 2 + (sky - y) ** 2)
    broad = 0.34 if look.height < 0.3 else 0.16
    glow = np.exp(away * -3.2) * broad + np.exp(away * -14) * 0.45
    if look.power > 0.5:
        glow += np.exp(-((sky * 7) ** 2)) * np.exp(-((c.x - x) ** 2) * 3) * 0.35
        c.rgb[:, : c.horizon] += glow * vector(light)
    if look.power > 1 and not dark and s.has("sun"):
        c.rgb[:, : c.horizon] += smooth(0.034, 0.03, away) * vector(light) * 5
    haze = mix(stops[2], light, 0.22 if look.power > 0.5 else 0.05)
    return Light(light, x, y, haze, stops[0] * 0.45 + stops[1] * 0.4 + stops[2] * 0.06)


def stars(c: Canvas, s: Scene) -> None:
    """Paint stars of several sizes, and the milky way."""
    spread = c.random("stars")
    count = 900
    x = spread.uniform(-1, 1, count) * 1.6
    y = -(spread.random(count) ** 0.8) * 1.8 - 0.02
    tint = mix(np.array([[1.0], [0.8], [0.6]]), np.array([[0.6], [0.8], [1.0]]), spread.random(count))
    power = spread.random(count) ** 6
    c.splat(x, y, 0.0008, tint * (0.15 + power * 0.7))
    c.splat(x[power > 0.6], y[power > 0.6], 0.0022, (0.6, 0.6, 0.6))
    sky = c.y[: c.horizon]
    band = np.exp(-(((sky + 0.5 + c.x * 0.8) * 4.2) ** 2))
    band *= c.veil("milky", 4, 4, 4, slice(0, c.horizon)) ** 2
    c.rgb[:, : c.horizon] += band * vector((0.10, 0.11, 0.17))


def moon(c: Canvas, s: Scene, light: Light) -> None:
    """Paint a full moon and its glow."""
    y = max(-0.36, c.top * 0.66)
    away = np.sqrt((c.x - light.x) ** 2 + (c.y[: c.horizon] - y) ** 2)
    tint = vector((1.0, 0.96, 0.86))
    sky = c.rgb[:, : c.horizon]
    sky += (np.exp(away * -20) * 0.25 + np.exp(away * -5) * 0.1) * vector((0.55, 0.7, 1.0))
    rows, columns = where = c.box(light.x - 0.07, y - 0.07, light.x + 0.07, y + 0.07)
    disc, near = smooth(0.0005, -0.0005, away[where] - 0.058), away[where]
    seas = smooth(0.42, 0.62, c.fbm("seas", c.x[:, columns] * 26, c.y[rows] * 26, 4))
    c.cover(where, tint * (1.25 - 0.62 * seas - 60 * near**2), disc)


def aurora(c: Canvas) -> None:
    """Paint two curtains of northern light."""
    sky = c.y[: c.horizon]
    for name, level, colour in (("a", 0.10, (0.08, 0.85, 0.42)), ("b", 0.26, (0.25, 0.35, 0.95))):
        wave = c.fbm("curtain" + name, c.x * 1.6, c.x * 0.7, 4) - 0.5
        rays = c.fbm("rays" + name, c.x * 22, c.x * 9 + sky * 0.6, 3)
        above = -sky - level - wave * 0.5
        fall = np.exp(np.minimum(above * -5.5, above * 45))  # fades slowly upwards, fast downwards; at most 1
        c.rgb[:, : c.horizon] += fall * rays**1.5 * vector(colour) * 0.9


def clouds(c: Canvas, s: Scene, light: Light) -> None:
    """Paint a flat layer of clouds in perspective; the lighting compares the density with that nearer to the light.

    Clouds are soft, so they are computed at half the size.
    """
    heavy = s.has("storm", "clouds")
    rows, columns = max(c.horizon // 2, 2), max(c.width // 2, 2)
    x, sky = resize(c.x, 1, columns), resize(c.y[: c.horizon], rows, 1)
    far = 1 / (0.13 - sky)
    u, v = x * far * 0.5, far * 1.15
    octaves = 4 + c.detail
    body = c.fbm("clouds", u, v, octaves)
    toward = c.fbm("clouds", u + (light.x - x) * 0.22, v + 0.16, octaves - 1)
    density = smooth(0.30, 0.56, body) if heavy else smooth(0.5, 0.78, body) * 0.75
    density *= smooth(0, 0.06, -sky)
    lit = np.clip(0.42 + (body - toward) * 3.2, 0, 1)
    away = np.sqrt((x - light.x) ** 2 + (sky - light.y) ** 2)
    near = np.exp(away * -2.6)
    sunny = vector(light.colour) * (0.16 + 0.75 * near) * lit + vector(light.haze) * 0.3 * lit
    body_colour = vector(light.ambient) * (0.45 + 0.4 * lit)
    if s.has("storm"):
        sunny *= 0.55
        body_colour = vector(mix(light.ambient, _GREY_STORM * 2, 0.6)) * (0.08 + 0.85 * lit**1.5)
    colour = resize(sunny + body_colour, c.horizon, c.width)
    c.cover((slice(0, c.horizon), slice(None)), colour, resize(density, c.horizon, c.width) * 0.94)


def lightning(c: Canvas, light: Light) -> None:
    """Paint a bolt with forks, and the lit clouds around it."""
    fate = c.random("bolt")
    x = -float(np.sign(light.x) or 1) * float(fate.uniform(0.12, 0.3)) * min(c.edge * 2, 1)
    n = 1600
    path = np.cumsum(fate.normal(0, 1, n)) * 0.0014
    path += np.interp(np.arange(n), np.arange(0, n + 40, 40), fate.normal(0, 0.011, n // 40 + 1))
    start = max(c.top * 0.8, -0.55)
    y = np.linspace(start, 0, n)
    for radius, power in ((0.0009, 0.5), (0.006, 0.011)):
        c.splat(x + path, y, radius, np.array((0.75, 0.8, 1.0)) * power)
    for fork in (430, 730, 1020):
        side = np.cumsum(fate.normal(0.3, 1, 200)) * 0.0009 * (1 if fork % 3 else -1)
        fade = np.linspace(1, 0, 200) * np.array([[0.75], [0.8], [1.0]])
        c.splat(x + path[fork] + side, y[fork] + np.linspace(0, 0.1, 200), 0.0007, fade * 0.6)
    away = np.sqrt((c.x - x) ** 2 + ((c.y[: c.horizon] - start * 0.6) * 0.7) ** 2)
    sky = c.rgb[:, : c.horizon]
    sky += np.exp(away * -6) * 0.3 * vector((0.5, 0.55, 0.85)) * (0.3 + 6 * sky)


# --- the land --------------------------------------------------------------------------------------------


def _shade(along: Array, away: Array, light: Light) -> Array:
    """Return the brightness of a slope under this light."""
    lx, lz, up = np.sign(light.x) * 0.9 or 0.9, 0.3, 0.42 + 0.5 * min(-light.y, 0.6)
    cosine = (up - along * lx - away * lz) / np.sqrt(1 + along**2 + away**2)
    struck: Array = np.clip(cosine, 0, 1.3)
    return struck


def mountains(c: Canvas, s: Scene, light: Light) -> None:
    """Paint a valley between mountains, with haze and mist."""
    snowy, foggy = s.has("snow"), s.has("mist")
    octaves = 5 + c.detail // 2

    def height(x: Array, z: Array) -> Array:
        ridges = c.fbm("ridges", x * 0.15, z * 0.15, octaves, 0.4, ridged=True)
        bulk = c.fbm("bulk", x * 0.09, z * 0.11, 2)
        rise = smooth(1.5, 15, z) * 5.4 * (0.35 + smooth(0.15, 0.8, np.abs(x) / (0.45 * z)))
        rolling = c.fbm("rolling", x * 0.9, z * 0.9, 4)
        land: Array = rise * (ridges * 0.95 + bulk - 0.6) + rolling * 0.3 - 0.1
        return land

    def paint(x: Array, z: Array, h: Array, along: Array, away: Array) -> tuple[Array, Array]:
        lit = _shade(along, away, light)
        steep = np.sqrt(along**2 + away**2)
        ground = mix(vector((0.016, 0.026, 0.014)), vector((0.058, 0.056, 0.062)), smooth(0.35, 1.0, h))
        white = smooth(1.5, 2.4, h + (c.fbm("snowline", x, z, 3) - 0.5) * 2) * smooth(2.0, 0.9, steep)
        if snowy:
            white = np.maximum(white, smooth(1.6, 0.7, steep))
        ground = mix(ground, vector((0.62, 0.68, 0.78)), white)
        colour = ground * (vector(light.colour) * lit * 1.25 + vector(light.ambient) * 0.9)
        distance = 1 - np.exp(np.maximum(z - 2, 0) * -0.034)
        low = np.exp(np.maximum(h - 0.05, 0) * (-1.5 if foggy else -4)) * smooth(1.6, 6, z)
        low = low * smooth(0.12, 0.58, c.fbm("mist", x * 0.35, z * 0.5, 4)) * (1.1 if foggy else 0.35)
        veil = 1 - (1 - distance) * (1 - np.clip(low, 0, 0.97))
        toward = np.exp(-((x / z - light.x) ** 2) * 5)
        haze = vector(mix(light.haze * 0.6, light.ambient, 0.7)) + toward * vector(light.colour) * 0.2
        haze = haze + low * vector(light.haze) * 0.42
        return mix(colour, haze, veil), np.ones_like(h)

    c.terrain(0.62, 30, height, paint)


def plain(c: Canvas, s: Scene, light: Light) -> None:
    """Paint hills, dunes, a meadow or snow."""
    desert, snow, field = s.has("desert"), s.has("snow"), s.has("field")
    rng = c.random("plain")
    turn = float(rng.uniform(-0.5, 0.5))

    def height(x: Array, z: Array) -> Array:
        if desert:  # dunes: ridged waves, warped, one flank steeper than the other
            bend = c.fbm("bend", x * 0.35, z * 0.3, 3) * 3.2
            phase = (z * 0.42 + x * turn * 0.5 + bend) % 1.0
            crest = np.where(phase < 0.72, phase / 0.72, (1 - phase) / 0.28)
            crest = 1 - np.sqrt((1 - crest) ** 2 + 0.006)
            ripple = np.sin((z * 1.0 + x * 0.5 + bend) * 42) * 0.003 * smooth(3.5, 1, z)
            return crest * smooth(0.2, 5, z) * 0.75 * (0.5 + c.fbm("size", x * 0.3, z * 0.2, 2)) + ripple
        rolling = c.fbm("rolling", x * 0.45, z * 0.35, 3 + c.detail) * smooth(0.5, 9, z)
        return rolling * (1.5 if s.has("hills") else 0.7) + c.fbm("bumps", x * 3, z * 3, 3) * 0.03

    def paint(x: Array, z: Array, h: Array, along: Array, away: Array) -> tuple[Array, Array]:
        lit = _shade(along, away, light)
        patch = c.fbm("patch", x * 2, z * 2, 4 + c.detail)
        if desert:
            ground = mix(vector((0.62, 0.33, 0.13)), vector((0.80, 0.52, 0.25)), patch)
        elif snow:
            ground = vector((0.70, 0.76, 0.86)) * (0.9 + 0.2 * patch)
        else:
            ground = mix(vector((0.035, 0.075, 0.016)), vector((0.16, 0.17, 0.04)), patch)
        if field and not snow:
            beds = smooth(0.3, 0.6, c.fbm("beds", x, z, 3))
            blossom = c.fbm("flowers", x * 48, z * 48, 2) * beds
            hue = c.noise(x * 60, z * 60)
            petal = vector(s.colours[0] if s.colours else (0.75, 0.16, 0.22))
            ground = mix(ground, petal * (0.5 + 0.9 * hue), smooth(0.42, 0.6, blossom) * 0.9)
        colour = ground * (vector(light.colour) * lit + vector(light.ambient) * 0.75)
        if snow and s.has("moon"):
            colour *= 1.1 + 1.6 * np.exp(-((x / z - light.x) ** 2) * 7)
        veil = 1 - np.exp(z * (-0.09 if s.has("mist") else -0.022))
        return mix(colour, vector(light.haze), veil), np.ones_like(h)

    c.terrain(0.5, 26, height, paint)


def headland(c: Canvas, s: Scene, light: Light, side: float) -> Array:
    """Paint a cliff or an island, transparent below the sea; return the y of its skyline."""
    plateau = 0.78 if s.has("cliff") else 0.4

    def height(x: Array, z: Array) -> Array:
        rough = c.fbm("rock", x * 2.6, z * 2.6, 5 + c.detail // 2, ridged=True)
        if s.has("cliff"):
            coast = x * side - 0.12 - (c.fbm("coast", z * 1.7, z * 0.3 + 4, 3) - 0.5) * 0.8 + rough * 0.25
            front = z - 1.75 + (c.fbm("front", x * 1.3, z * 0.2, 3) - 0.5) * 0.9
            up = np.minimum(smooth(0, 0.3, coast), smooth(0, 0.75, front)) * smooth(6.5, 4.5, z)
            ledge = up * 6 + c.fbm("ledge", x * 2, z * 2, 2)
            step = np.floor(ledge)
            ledge = mix(ledge, step + smooth(0.25, 0.8, ledge - step), 0.8) / 6.4
            up = np.clip(ledge, 0, 1) * smooth(0, 0.1, up)
            foot = np.clip(1 - np.abs(coast + 0.12) / 0.35, 0, 1) * smooth(1.5, 2.2, z) * smooth(6, 5, z)
            top: Array = up * plateau * (0.9 + 0.14 * rough) + rough * 0.05 * (up > 0)
            return top + foot * (rough * 0.4 - 0.17) - 0.06
        mound = np.exp(-(((x / z - side * 0.16) / 0.2) ** 2) - ((z - 9) / 3) ** 2)
        island: Array = mound * (1.1 + rough * 1.4) - 0.12
        return island

    def paint(x: Array, z: Array, h: Array, along: Array, away: Array) -> tuple[Array, Array]:
        lit = _shade(along, away, light)
        steep = np.sqrt(along**2 + away**2)
        strata = c.fbm("strata", x * 2.5, h * 26 + z * 0.5, 3)
        rock = mix(vector((0.012, 0.012, 0.014)), vector((0.15, 0.13, 0.115)), smooth(0.25, 0.75, strata))
        grass = vector((0.7, 0.75, 0.8)) if s.has("snow") else vector((0.045, 0.065, 0.022))
        ground = mix(rock, grass, smooth(2.0, 0.8, steep) * smooth(0.25, 0.5, h))
        colour = ground * (vector(light.colour) * lit * 1.7 + vector(light.ambient) * 0.55)
        foam = smooth(0.025, 0.0, h) * smooth(1.2, 0.5, steep) * c.noise(x * 9, z * 9)
        colour = mix(colour, vector(light.haze) * 0.9, np.clip(foam, 0, 1))
        return mix(colour, vector(light.haze), 1 - np.exp(z * -0.02)), smooth(-0.025, 0.0, h)

    return c.terrain(0.36, 14, height, paint)


def water(c: Canvas, s: Scene, light: Light) -> None:
    """Paint water: a mirror image, stronger at flat viewing angles, and displaced by waves."""
    rows = slice(c.horizon, c.height)
    y = c.y[rows]
    far = 1 / (y + 0.004)
    rough = 1.0 if s.has("storm") else 0.7 if s.has("waves") else 0.35 if s.has("sea") else 0.1
    u, v = c.x * far, far * 1.0
    swell = c.fbm("swell", u * 1.1, v * 2.4, 3, ridged=True)
    chop = c.fbm("chop", u * 6 + swell, v * 13, 3 + c.detail // 2)
    wave = (swell * 0.6 + chop * 0.8 - 0.62) * smooth(0, 0.05, y)
    clear = (0.30 + 0.62 * np.exp(y * -3.4)) * np.clip(1 - rough * 0.35 + wave * rough, 0.1, 1)
    deep = mix(light.ambient, np.array((0.01, 0.05, 0.06), np.float32) * (0.4 + light.colour), 0.5) * 0.35
    c.rgb[:, rows] = vector(deep) * (1 + np.clip(wave, -0.6, 1) * rough * 2.4)
    c.mirror(np.zeros_like(c.x), wave * (0.02 + rough * 0.55) * (0.15 + y), rows, clear)
    path = np.exp(-(((c.x - light.x) / (0.05 + y * 0.45)) ** 2))
    path = path * (s.time != "night" or s.has("moon"))
    glint = smooth(0.12, 0.34, wave + 0.06 * rough) * path * (0.25 if rough > 0.9 else 1)
    c.rgb[:, rows] += glint * vector(light.colour) * (0.7 if light.colour.max() > 0.5 else 0.9)
    if rough > 0.5:
        crest = smooth(0.44, 0.66, swell * 0.75 + chop * 0.5 - 0.1) * smooth(0.01, 0.12, y)
        foam = crest * smooth(0.35, 0.65, c.fbm("foam", u * 12, v * 30, 2))
        c.cover((rows, slice(None)), vector(light.haze * 0.75 + light.ambient * 0.4 + 0.12), foam * 0.8)


def weather(c: Canvas, s: Scene, light: Light) -> None:
    """Paint fog, rain and snow in front of the scene."""
    fate = c.random("weather")
    if s.has("mist") and not s.has("mountains"):
        for index in range(3):
            level, reach = 0.02 + index * 0.09, 0.06 + index * 0.05
            rows, _ = c.box(0, level - 2.2 * reach, 0, level + 2.2 * reach)  # over the whole width
            band = np.exp(-(((c.y[rows] - level) / reach) ** 2))
            wisps = smooth(0.25, 0.75, c.veil(f"fog{index}", 1.6, 6, 4, rows))
            c.cover((rows, slice(None)), vector(light.haze), band * wisps * 0.6)
    area = c.width * c.height * c.pixel**2
    if s.has("rain"):
        lean = 0.32 if s.has("storm") else 0.12
        for count, length, power in ((2200, 0.03, 0.22), (900, 0.06, 0.36), (160, 0.13, 0.42)):
            x = fate.uniform(-c.edge - 0.1, c.edge, int(count * area))
            c.streaks(x, fate.uniform(c.top - 0.1, c.bottom, x.size), length, lean, power)
    if s.has("snow"):
        bright = 0.10 + 0.8 * float(light.ambient.mean())
        for count, radius in ((700, 0.0011), (200, 0.002), (24, 0.0038)):
            x = fate.uniform(-c.edge, c.edge, int(count * area))
            c.splat(x, fate.uniform(c.top, c.bottom, x.size), radius, (bright, bright, bright))


def abstract(c: Canvas, s: Scene) -> None:
    """Paint folds of colour, lit like cloth: the image for a prompt without a known word."""
    rng = c.random("silk")
    height, width = max(c.height * 2 // 3, 2), max(c.width * 2 // 3, 2)
    x, y = resize(c.x, 1, width) * 1.5, resize(c.y, height, 1) * 1.5
    qu, qv = c.fbm("q", x, y, 3), c.fbm("r", x, y, 3)
    ru = c.fbm("s", x + qu * 2.6, y + qv * 2.6, 3)
    fold = c.fbm("t", x + ru * 1.8 + qv, y * 1.2 + qu * 1.9, 3 + c.detail)
    turn = rng.random()
    start = np.array(s.colours[:3] if len(s.colours) > 1 else [], np.float32)
    if not start.size:
        hue = (turn + np.array([0.0, 0.14, 0.52])[:, None] - np.array([0, 1 / 3, 2 / 3])) * 2 * np.pi
        start = ((0.52 + 0.36 * np.cos(hue)) ** 1.6).astype(np.float32)
        if s.colours:
            start[0] = s.colours[0]
    deep, main, spark = start[0] * 0.12, start[len(start) // 2], start[-1]
    colour = mix(vector(deep), vector(start[0]), smooth(0.25, 0.6, qu * 0.5 + fold * 0.5))
    colour = mix(colour, vector(main), smooth(0.4, 0.75, ru))
    colour = mix(colour, vector(spark) * 1.4, smooth(0.55, 0.85, fold * 0.6 + qv * 0.5))
    colour *= 0.82 + 0.3 * np.sin(fold * 150 + ru * 40)
    paces = height / (1.5 * c.height * c.pixel) * 0.45
    dy, dx = (slope * paces for slope in np.gradient(fold + 0.25 * ru))
    facing = (0.5 - dx * 0.57 - dy * 0.65) / np.sqrt(1 + dx * dx + dy * dy)
    gloss = np.clip(facing, 0, 1) ** 24
    shine = gloss * (0.3 * vector((1.0, 0.95, 0.9)) + 0.8 * colour)
    colour = colour * (0.35 + 1.3 * np.clip(facing, 0, 1)) + shine
    c.rgb[:] = resize(colour.astype(np.float32), c.height, c.width)
