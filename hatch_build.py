"""Build hooks: the further files of a wheel, and the README for a package page."""

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = "https://github.com/umrgen/umrgen/blob/main/"
FILES = "https://github.com/umrgen/umrgen/raw/main/"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def absolute_links(markdown: str) -> str:
    """Return the text with absolute URLs for relative links, which do not work on a package page."""

    def absolute(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        if not re.match(r"[a-z]+:|#", target):
            target = (FILES if image else PAGES) + target
        return f"{image}[{LINK.sub(absolute, words)}]({target})"

    return LINK.sub(absolute, markdown)


class ReadmeHook(MetadataHookInterface):
    """Sets the long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute_links(text)}


class FilesHook(BuildHookInterface[Any]):
    """Adds the studio, the JavaScript client that it uses, and the files for `umrgen serve --print-…`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install reads the originals: a copy would become outdated.
        if version != "editable":
            server = "umrgen/server"
            build_data["force_include"] |= {
                "js/studio": f"{server}/studio/page",
                "js/src": f"{server}/studio/src",
                "deploy/umrgen.service": f"{server}/deploy/umrgen.service",
                "deploy/umrgen-user.service": f"{server}/deploy/umrgen-user.service",
                "deploy/policy-words.txt": f"{server}/deploy/policy-words.txt",
                "deploy/umrgen.toml": f"{server}/deploy/umrgen.toml",
            }
