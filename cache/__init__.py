"""Feature cache: keys in, numpy arrays out. The only code that knows HDF5."""
