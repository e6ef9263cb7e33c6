"""How the pages are made: read by Sphinx, which `tools/docs.py` starts on a copy of this folder."""

project = "extmem"
author = "The extmem authors"
copyright = "The extmem authors, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs_words", "docs_anchors"]
source_suffix = {".md": "markdown"}
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = "extmem"
html_static_path = ["static"]
html_css_files = ["extmem.css"]
# Nothing comes from elsewhere, so that the pages work from a folder and without a network.
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"
