"""How the documentation is built; `make docs` does it."""

from __future__ import annotations

import remadom

project = "remadom"
author = "The remadom developers"
copyright = author
release = remadom.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 5

napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "remadom"
html_copy_source = False
html_show_sphinx = False
