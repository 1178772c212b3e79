"""Settings of the documentation: ``make docs`` builds it, offline."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import generated_pages  # noqa: E402 - beside this file, see the line above
import inventories  # noqa: E402

os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "diffqa-features"
author = "the diffqa-features contributors"
copyright = author
version = release = installed("diffqa-features")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "markdown_file",
    "mathml",
]
exclude_patterns = ["_build", "generated/backreferences"]
templates_path = ["_templates"]
# Names in single backquotes are mostly parameters, which have no page of their own.
default_role = "literal"
smartquotes = False  # it would bend the quotes of default="tiny"

# Written before Sphinx lists the pages.
PAGES = HERE / "generated"
members = generated_pages.write_all(PAGES)

autosummary_generate = True
autosummary_context = {"own_members": members}
autodoc_typehints = "none"
numpydoc_show_class_members = False

# The names that the texts link to, in inventories made here: nothing is fetched.
intersphinx_mapping = inventories.write_all(PAGES / "inventories")

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "generated_pages.FirstScoreFirst",
    "doc_module": ("diffqa_features",),
    "backreferences_dir": "generated/backreferences",
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib", "generated_pages.guard_example"),
    "reset_modules_order": "both",
}

html_theme = "pydata_sphinx_theme"
html_title = f"diffqa-features {version}"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "diffqa-features"},
    "navigation_with_keys": False,
    "navbar_center": [],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_sidebars = {"**": ["contents"]}
