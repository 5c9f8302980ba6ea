"""Layouts of public data sets and of other programs' files: a file per family, each from bytes to ``Raw``."""
