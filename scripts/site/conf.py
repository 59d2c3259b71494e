"""Configuration of Sphinx for the site of docs/: `make docs`.

The pages are plain Markdown that a Git host shows too. Everything that only the site has is added when a page is
read: the navigation, from the lists of docs/index.md; the calls of the HTTP API; the public names of the Python
package; the README of the JavaScript client.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import additions

from umrgen import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "UMRGEN"
author = "The authors of UMRGEN"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"

myst_heading_anchors = 4
myst_enable_extensions = ["html_admonition"]

default_role = "literal"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "UMRGEN"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
pygments_style = "tango"


def setup(app: "Sphinx") -> None:
    """Register the additions to pages."""
    app.connect("source-read", lambda app, page, source: source.__setitem__(0, additions.complete(page, source[0])))
