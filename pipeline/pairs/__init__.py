"""Pair features: numbers per mention and candidate."""
