"""How the guide is built: `make docs`. Each page is a MyST-NB text notebook, whose cells run as it is built.

A warning is an error, and so are a cell that raises and one that writes to stderr: what a reader sees is what the code says now.
"""

import logging
import os
import sys
from pathlib import Path

from jupyter_client import KernelManager

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# For the pages' kernels: this tree's funcnet whatever is installed, quiet, on the CPU, and nothing compiled twice.
os.environ |= {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "docs" / "_build" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA says of each program from the cache that it was compiled for a processor as this
    "OPENBLAS_NUM_THREADS": "1",
}

import funcnet  # noqa: E402

if hasattr(KernelManager, "transport_encryption"):  # else each kernel warns that what it says to Sphinx is not encrypted
    KernelManager.transport_encryption.default_value = "auto"
logging.getLogger("traitlets").setLevel("WARNING")

project, author, copyright = "funcnet", "the developers of funcnet", "the developers of funcnet"
version = release = funcnet.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "names"]
exclude_patterns = ["_build"]

autosummary_generate = False
autodoc_typehints = "none"  # a docstring says shapes, units and ranges
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_maximum_signature_line_length = 100

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"funcnet {release}"
html_copy_source = html_show_copyright = False

myst_enable_extensions = ["colon_fence"]  # no maths: MathJax would be fetched from elsewhere by who reads
myst_heading_anchors = 3

# The cache looks at a page's cells alone, and not at funcnet; for writing: make docs OPTIONS="-D nb_execution_mode=cache"
nb_execution_mode = "force"
nb_execution_in_temp = True  # what a page writes is gone
nb_execution_timeout = 120
nb_execution_raise_on_error = False  # it warns, with the traceback, which is an error too, and goes on to the other pages
nb_execution_show_tb = True
nb_output_stderr = "error"
nb_merge_streams = True
