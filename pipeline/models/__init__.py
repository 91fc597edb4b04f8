"""Finding and loading pretrained models; detectors and recognisers."""
