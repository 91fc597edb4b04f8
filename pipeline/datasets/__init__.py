"""From a dataset's files to its tables and its account."""
