"""mlbook: the package behind the book on optimisation-based meta-learning.

Importing it has no effect: nothing is downloaded, seeded, patched or printed.
"""

__version__ = "0.1.0"
