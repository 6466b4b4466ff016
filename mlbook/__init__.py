"""mlbook: the package behind the book on optimisation-based meta-learning.

Importing it has no effect: nothing is downloaded, seeded, patched or printed.

What may be relied on is what the packages ``errors``, ``data``, ``models``, ``tasks``, ``meta_learners``, ``engines``,
``experiments``, ``training`` and ``results`` name in ``__all__``, and the command line. It changes with the second number of the
version, and the changelog says how. All else may change with any version.
"""

__version__ = "0.2.0"
