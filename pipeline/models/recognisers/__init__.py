"""What the extractors of faces share: cutting and aligning, the recognisers of several libraries, image classifiers."""
