"""Measure how plain the language of the sources and documents is; part of `make lint`.

    python scripts/plain_language.py                  the density of each group; exit code 1 above a limit
    python scripts/plain_language.py --worst 20       and the files and terms that contribute most
    python scripts/plain_language.py --show FILE...   each match with its line
    python scripts/plain_language.py --measure DIR    another source tree, without limits

Counted are docstrings, comments, messages, test names and prose. The density is the number of matches of `TERMS`
per 1,000 words. uvicorn scores 1.6 by this measure, Starlette 1.3, httpx2 1.8 and pytest 2.0.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = (".py", ".js", ".mjs", ".html", ".css", ".sql", ".md")
IGNORED = {"node_modules", ".venv", "__pycache__", "build", "dist", ".git"}

# The highest density allowed, by group. A file belongs to the first group that fits.
LIMITS = {
    "src/umrgen/server": 4.0,
    "src/umrgen/testing": 4.0,
    "src/umrgen": 4.0,
    "tests": 4.0,
    "benchmarks": 4.0,
    "examples": 4.0,
    "scripts": 4.0,
    "js": 4.0,
    "documents": 4.0,
}

# Words and phrases of a literary voice, as regular expressions on lower-case text.
TERMS = (
    # Pronouns for persons, where the text should name the caller, the client, the operator or the engine.
    r"who|who(?:m|so)?ever|nobody(?:'s)?|somebody(?:'s)?|everybody|anybody|someone|everyone|no one",
    r"he|his|him|she|hers?|one's|oneself|of (?:its|their|our|your|his) own|an own",
    # Clauses without a noun, where the text should name the thing.
    r"what (?:is|was|are|were|has|had|have|it|they|we|he|may|might|must|can|cannot|will|would|should|comes?|came"
    r"|goes|became|becomes|counts|follows|remains|belongs|makes|gives|gets|got|keeps|needs|lies|stands|there)",
    r"that which|whatever|whichever|wherever|whence|whither|therein|thereof|thereupon|hence|henceforth|thereby|lest",
    # Verbs of speech and thought with a program as their subject.
    r"tells?|told|telling|untold|hears?|heard|hearing|says|said|saying|speaks?|spoke|spoken|speaking",
    r"knows|knew|learns?|learnt|learned|learning|wants|wanted|wishes|believes?|thinks?|remembers?|forgets?|forgot",
    r"forgotten|asks?|asked|asking|trusts|dares?|bothers?|notices|noticed|promises|promised",
    # Verbs of daily life, where the field has a term.
    r"gives|gave|goes|went|going on|carr(?:y|ies|ied) on|comes?|came|coming|lies|lay|stands?|stood",
    r"dies?|died|dying|dead|alive|lives? on|bears?|bore|borne|brings?|brought|lets? go|letting go|let in",
    r"takes? up|taken up|took up|looks? (?:at|whether)|looked (?:at|for)|mends?|mended|heals?|spoils?",
    r"pass(?:es|ed)? over|hands? (?:over|on|out)|hurry|hurries|watched over|cares? for|minds|owes?|suffers?",
    # Metaphors.
    r"houses?|rooms?|doors?|guests?|strangers?|manners?|couriers?|shel(?:f|ves)|workshops?|neighbou?r(?:s|hoods?)?",
    r"patien(?:ce|t|tly)|glances?|hopeless|fruitless|intruders?|drips?|drop by drop|bit by bit|silence|voices?",
    r"hands|handful|hearts?|truth|true to|news|trouble[sd]?|chance|harm(?:less|lessly)?|whole of|of use",
    r"at stake|at hand|at rest|in vain|in good order|in (?:its|the) (?:way|place)|out of the way|for good|for ever",
    # Adverbs and turns of phrase that are no longer common.
    r"anew|afresh|meanwhile|at once|all the same|as good as|ever|ever so|merely|seldom|scarcely|hardly|alike|likewise",
    r"besides?|in vain|alone|this very|that very|the very|on the way|once more|no more|any more|none is|there is none",
    r"no matter|be had|if need be|so many|so much|such a one|a while|moments?|words?|picture[sd]?|pictures",
)
MANNERED = re.compile(rf"(?<![\w-])(?:{'|'.join(TERMS)})(?![\w-])")
OPENING = re.compile(r"(?:What|Who|Whose|Whether|Where|When|How|Why|Which)\b")
"""A docstring of a function or class that begins so is a clause without a verb."""
TECHNICAL = re.compile(r"word(?:s)? per|keep-alive|words? of the prompt|prompt's words?|mime type|media type")
"""Exact uses of words that `TERMS` holds; they are removed before the count."""
WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
SQL = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|BEGIN|PRAGMA|ALTER|DROP)\b")
Text = tuple[int, str, bool]
"""A line number, a text, and whether the text is the docstring of a module, class or function."""


def is_message(text: str) -> bool:
    """Return whether a string literal reads as a sentence: three words or more, and no SQL, markup or data."""
    words = text.split()
    plain = sum(bool(re.fullmatch(r"[(\"']?[A-Za-z][a-z'’-]*[.,;:!?)\"']*", word)) for word in words)
    return len(words) >= 3 and plain >= 0.6 * len(words) and not SQL.match(text)


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _is_text(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[0], ast.Expr)


def python_texts(source: str) -> Iterator[Text]:
    """Yield the comments, docstrings, messages and test names of a Python module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("#!", "# type:", "# noqa")):
            yield token.start[0], token.string.lstrip("# "), False
    nodes = list(ast.walk(ast.parse(source)))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    openings = {id(node.body[0].value) for node in nodes if isinstance(node, DOCUMENTED) and _is_text(node.body)}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.removeprefix("test_").replace("_", " "), False
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
            if is_message(text):
                yield node.lineno, text, False
        elif id(node) in docs and isinstance(node, ast.Constant):
            yield node.lineno, str(node.value), id(node) in openings
        elif isinstance(node, ast.Constant) and id(node) not in inner and is_message(str(node.value)):
            yield node.lineno, str(node.value), False


SCRIPT_TOKEN = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?\*/)"
    r"|(?P<regex>(?<=[(,=:\[!&|?{};])\s*/(?![/*])(?:\\.|\[(?:\\.|[^\]\n])*\]|[^/\n\\])+/[a-z]*)"
    r"|(?P<string>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)",
    re.DOTALL,
)


def script_texts(source: str) -> Iterator[Text]:
    """Yield the comments and messages of a JavaScript module or a style sheet."""
    for found in SCRIPT_TOKEN.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        if comment := found["comment"]:
            text = re.sub(r"^[/*\s]+|^\s*\*+ ?|\*/$|@\w+ \{.*?\}+|@import.*", "", comment, flags=re.MULTILINE)
            yield line, text, comment.startswith("/**\n")
        elif found["string"] and is_message(text := re.sub(r"\$\{[^}]*\}", "0", found["string"][1:-1])):
            yield line, text, False


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[Text] = []

    def handle_data(self, data: str) -> None:
        self.texts.append((self.getpos()[0], data, False))

    handle_comment = handle_data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("title", "aria-label", "placeholder", "content", "alt") and value:
                self.texts.append((self.getpos()[0], value, False))


def page_texts(source: str) -> Iterator[Text]:
    """Yield the visible texts, labels and comments of an HTML page."""
    page = _Page()
    page.feed(source)
    yield from page.texts


def sql_texts(source: str) -> Iterator[Text]:
    """Yield the comments of an SQL file."""
    for line, text in enumerate(source.splitlines(), 1):
        if "--" in text:
            yield line, text.partition("--")[2], False


def document_texts(source: str) -> Iterator[Text]:
    """Yield the prose of a Markdown document, without its code blocks and link targets."""
    prose = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), source, flags=re.DOTALL)
    for line, text in enumerate(re.sub(r"\]\([^)]*\)", "]", prose).splitlines(), 1):
        yield line, text, False


READERS = {
    ".py": python_texts,
    ".js": script_texts,
    ".mjs": script_texts,
    ".css": script_texts,
    ".html": page_texts,
    ".sql": sql_texts,
    ".md": document_texts,
}


class Count:
    """The words of some texts and the mannered terms among them."""

    def __init__(self) -> None:
        self.words = 0
        self.terms: Counter[str] = Counter()
        self.matches: list[tuple[int, str]] = []

    def add_text(self, line: int, text: str, is_docstring: bool) -> None:
        text = re.sub(r"``?[^`]*``?|https?://\S+", " ", text)
        self.words += len(WORD.findall(text))
        for found in MANNERED.finditer(TECHNICAL.sub(" ", re.sub(r"\s+", " ", text.lower()))):
            self._add(line, found[0])
        if is_docstring and (opening := OPENING.match(text.strip())):
            self._add(line, f"{opening[0]} … (opening)")

    def _add(self, line: int, term: str) -> None:
        self.terms[term] += 1
        self.matches.append((line, term))

    def add(self, other: "Count") -> None:
        self.words += other.words
        self.terms += other.terms

    @property
    def density(self) -> float:
        """Mannered terms per 1,000 words."""
        return 1000 * self.terms.total() / max(self.words, 1)


def count_file(path: Path) -> Count:
    """Return the counts of one file, read by its suffix."""
    count = Count()
    for text in READERS[path.suffix](path.read_text()):
        count.add_text(*text)
    return count


def source_files(root: Path) -> Iterator[Path]:
    """Yield the files below `root` that hold text to measure."""
    for path in sorted(root.rglob("*")):
        hidden = any(part in IGNORED or part.startswith(".") for part in path.relative_to(root).parts[:-1])
        if path.suffix in SUFFIXES and not hidden:
            yield path


def group_of(path: Path) -> str:
    """Return the group of `LIMITS` that a file of this project belongs to."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == ".md":
        return "documents"
    return next((group for group in LIMITS if name.startswith(f"{group}/")), "tests")


def print_worst(counts: dict[Path, Count], number: int) -> None:
    """Print the files with the most matches, and the most frequent terms."""
    for path, count in sorted(counts.items(), key=lambda item: -item[1].terms.total())[:number]:
        terms = ", ".join(f"{term} {times}" for term, times in count.terms.most_common(6))
        print(f"{count.terms.total():4}  {count.density:5.1f}  {path.relative_to(ROOT)}  ({terms})")
    total = sum((count.terms for count in counts.values()), Counter[str]())
    print(", ".join(f"{term} {times}" for term, times in total.most_common(3 * number)))


def check_project(worst: int) -> int:
    """Print the density of each group; return 1 when one is above its limit."""
    counts = {path: count_file(path) for path in source_files(ROOT) if path != Path(__file__).resolve()}
    groups = {group: Count() for group in LIMITS}
    for path, count in counts.items():
        groups[group_of(path)].add(count)
    failed = False
    for group, count in groups.items():
        above = count.density > LIMITS[group]
        failed |= above
        print(f"{group:20} {count.density:5.1f} of {LIMITS[group]:4.1f}  {count.words:7,} words{'  ABOVE' * above}")
    if worst:
        print_worst(counts, worst)
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure mannered words per 1,000 words.")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="print the N worst files and terms")
    parser.add_argument("--show", nargs="+", type=Path, default=[], metavar="FILE", help="print each match of files")
    parser.add_argument("--measure", type=Path, metavar="DIR", help="measure another source tree")
    arguments = parser.parse_args()
    for path in arguments.show:
        for line, term in sorted(count_file(path).matches):
            print(f"{path}:{line}: {term}")
    if arguments.measure:
        total = Count()
        for path in source_files(arguments.measure):
            total.add(count_file(path))
        print(f"{total.density:.1f}  {total.words:,} words  {total.terms.most_common(12)}")
    return 0 if arguments.show or arguments.measure else check_project(arguments.worst)


if __name__ == "__main__":
    sys.exit(main())
