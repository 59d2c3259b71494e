"""What a wheel has beside the package's own files: the studio, and the JavaScript client that it is built on."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StudioHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install serves them from js/ itself: a copy would grow old beside it.
        if version != "editable":
            inside = "umrgen/server/studio"
            build_data["force_include"] |= {"js/studio": f"{inside}/page", "js/src": f"{inside}/src"}
