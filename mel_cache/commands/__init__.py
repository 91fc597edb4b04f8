"""The commands: everything that knows Luigi, one file per group."""
