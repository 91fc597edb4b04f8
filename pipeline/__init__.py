"""From a dataset's files to cached features."""
