"""Measurements of methods that take longer than a chapter may; each writes a file that a chapter reads. Run by hand."""
