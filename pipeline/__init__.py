"""From a dataset's files to cached features."""

__version__ = "0.1.0"
