"""The embedded demo world, and the small encoders that are trained for it."""
