"""Detectors: pretrained models that find boxes in pictures of any size; the extractors `objects` and `faces` stand on
them."""
