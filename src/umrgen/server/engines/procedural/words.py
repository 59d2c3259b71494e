"""The vocabulary of the procedural engine, and the light of each time of day."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Look", "Scene", "read_scene"]

Colour = tuple[float, float, float]

# Canonical name: synonyms, in the singular; `_lookup` finds plurals.
_THINGS = {
    "storm": "stormy tempest hurricane thunderstorm squall gale",
    "rain": "rainy raining drizzle downpour wet",
    "snow": "snowy snowing snowfall snowstorm blizzard winter wintry frozen",
    "mist": "misty fog foggy haze hazy",
    "clouds": "cloud cloudy overcast",
    "clear": "cloudless",
    "lightning": "thunder thunderbolt",
    "sea": "ocean water coast beach shore seaside bay harbour harbor surf seascape",
    "waves": "wave swell breaker rough",
    "lake": "pond lagoon fjord",
    "river": "stream creek canal",
    "cliff": "bluff headland crag",
    "lighthouse": "beacon",
    "mountains": "mountain peak summit alp alpine range himalaya",
    "hills": "hill valley highland countryside landscape",
    "city": "skyline town skyscraper metropolis downtown urban building cityscape",
    "street": "alley avenue road neon cyberpunk boulevard",
    "forest": "tree pine wood woodland fir spruce taiga grove",
    "desert": "dune sahara sand",
    "moon": "moonlit moonlight crescent",
    "sun": "sunny sunlight sunshine sunbeam",
    "stars": "star starry milky galaxy constellation space cosmos",
    "aurora": "borealis northern-lights polar",
    "boat": "ship sailboat yacht vessel sail schooner",
    "island": "isle islet archipelago",
    "field": "meadow flower grass prairie pasture lavender poppy wheat grassland garden",
}
_TIMES = {
    "dawn": "daybreak",
    "sunrise": "",
    "morning": "",
    "noon": "midday",
    "day": "daytime daylight afternoon",
    "sunset": "sundown",
    "dusk": "twilight evening gloaming",
    "night": "midnight nighttime nocturnal dark",
}
_COLOURS = {
    "#e0342b": "red crimson scarlet ruby",
    "#ff8a2a": "orange amber copper",
    "#ffc44d": "gold golden yellow honey",
    "#59b256": "green emerald jade",
    "#1fa8a0": "teal turquoise cyan aqua",
    "#3570e0": "blue azure cobalt sapphire indigo",
    "#8d55d6": "purple violet lilac amethyst",
    "#f0609a": "pink rose magenta fuchsia",
    "#9a7350": "brown sepia bronze",
    "#c8ccd4": "silver grey gray monochrome",
}
# mood -> saturation, contrast, exposure, warmth
_MOODS = {
    "calm quiet peaceful serene gentle still": (0.95, -0.04, 1.04, 0.01),
    "dramatic epic intense majestic": (1.08, 0.22, 0.96, 0.0),
    "gloomy dark melancholy bleak sad ominous": (0.62, 0.05, 0.78, -0.04),
    "warm cosy cozy": (1.08, 0.0, 1.04, 0.12),
    "cold icy chilly frosty": (0.85, 0.02, 1.0, -0.12),
    "dreamy ethereal magical soft": (1.05, -0.14, 1.14, 0.03),
    "vivid vibrant colourful colorful": (1.4, 0.08, 1.02, 0.0),
}
_IMPLIES = {
    "storm": "clouds rain lightning waves",
    "lighthouse": "cliff",
    "cliff": "sea",
    "waves": "sea",
    "island": "sea",
    "street": "city",
    "aurora": "stars",
}
_GROUNDS = {"sea", "lake", "river", "mountains", "hills", "city", "forest", "desert", "field"}
_NIGHTLY = {"moon", "stars", "aurora", "street"}


@dataclass(frozen=True, slots=True)
class Look:
    """A time of day: three colours of the sky, the colour and power of the light, and its height."""

    zenith: Colour
    middle: Colour
    horizon: Colour
    light: Colour
    power: float
    height: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a prompt. `names` is empty when no word is in the vocabulary."""

    names: frozenset[str]
    time: str
    look: Look
    colours: tuple[Colour, ...]
    mood: tuple[float, float, float, float]

    def has(self, *names: str) -> bool:
        """Return whether any of `names` is in the scene."""
        return not self.names.isdisjoint(names)


def _linear(code: str) -> Colour:
    r, g, b = (float(int(code[i : i + 2], 16) / 255.0) ** 2.2 for i in (1, 3, 5))
    return r, g, b


def _look(zenith: str, middle: str, horizon: str, light: str, power: float, height: float) -> Look:
    return Look(_linear(zenith), _linear(middle), _linear(horizon), _linear(light), power, height)


_LOOKS = {
    "dawn": _look("#22305e", "#8a7398", "#f6bf9e", "#ffc9a0", 0.9, 0.06),
    "sunrise": _look("#3a619c", "#c9a2a8", "#ffc680", "#ffc078", 1.5, 0.17),
    "morning": _look("#3876bd", "#86b5de", "#e2dccb", "#ffe8c0", 1.25, 0.36),
    "noon": _look("#1857ad", "#4c98dc", "#aed3ea", "#fff2da", 1.3, 0.85),
    "day": _look("#2668ba", "#67a8e0", "#bfdcec", "#fff0d4", 1.25, 0.6),
    "sunset": _look("#2f3a78", "#c9667a", "#ffa550", "#ffa552", 1.6, 0.09),
    "dusk": _look("#141d42", "#514a7c", "#e08c6e", "#ff9f80", 0.7, 0.0),
    "night": _look("#050813", "#0c1633", "#22345c", "#b4c6f0", 0.4, 0.36),
}


def _index(*tables: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {word: name for table in tables for name, words in table for word in (name, *words.split())}


_WORDS = _index(_THINGS.items())
_CLOCK = _index(_TIMES.items())
_PAINTS = _index(_COLOURS.items())
_FEEL = {word: mood for words, mood in _MOODS.items() for word in words.split()}


def _lookup(words: list[str], table: dict[str, str]) -> list[str]:
    singular = ((word, word.removesuffix("s"), word.removesuffix("es")) for word in words)
    found = (next((table[form] for form in forms if form in table), None) for forms in singular)
    return list(dict.fromkeys(name for name in found if name))


def read_scene(prompt: str, negative: str) -> Scene:
    """Return the scene of `prompt`, without the objects in `negative` or after "no" and "without" in the prompt."""
    text = prompt.casefold()
    refused = re.findall(r"\b(?:no|without)\s+(?:an?\s+|the\s+)?([a-z]+)", text) + negative.casefold().split()
    words = [word for word in re.findall(r"[a-z]+", text) if word not in refused]
    unwanted = set(_lookup(re.findall(r"[a-z]+", " ".join(refused)), _WORDS))
    names = set(_lookup(words, _WORDS))
    times = _lookup(words, _CLOCK)
    for _ in range(3):  # the longest chain: storm, waves, sea
        names |= {more for name in names for more in _IMPLIES.get(name, "").split()}
    time = times[0] if times else "night" if names & _NIGHTLY else "day"
    if (names or times) and not names & _GROUNDS:
        names |= {"hills"} if names & {"snow", "mist", "rain"} else {"sea"}
    if time == "night" and not names & {"storm", "rain", "street", "clouds", "mist"}:
        names.add("stars")
    if not names & {"clear", "storm", "clouds", "desert"} and names:
        names.add("wisps")
    if "mountains" in names and "desert" not in names:
        names.add("forest")  # a dark foreground adds depth
    if "snow" in names:
        names -= {"stars"} if "stars" not in _lookup(words, _WORDS) else set()
    if names:
        names.add("sun")
    names -= unwanted | ({"wisps"} if "clouds" in unwanted else set())
    if names & {"sea", "lake", "river"}:
        names.add("water")
    moods = [_FEEL[word] for word in words if word in _FEEL]
    middle = [sum(values) / len(moods) for values in zip(*moods, strict=True)] or [1.0, 0.0, 1.0, 0.0]
    colours = tuple(_linear(code) for code in _lookup(words, _PAINTS))
    saturation, contrast, exposure, warmth = middle
    return Scene(frozenset(names), time, _LOOKS[time], colours, (saturation, contrast, exposure, warmth))
