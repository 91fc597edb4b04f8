"""Extract once, train anywhere: the Python API."""
