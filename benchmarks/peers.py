"""Importing this module imports the peers; the process from which workers are forked does it once.

A peer that is missing or broken is passed over here; it fails again, with its message, where it is called.
"""

import contextlib
import importlib
import io
import warnings

from mlbook.data.torchvision_import import torchvision

PACKAGES = ("learn2learn", "higher", "torchopt")

with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with contextlib.suppress(Exception):
        torchvision()
    for package in PACKAGES:
        with contextlib.suppress(Exception):
            importlib.import_module(package)
