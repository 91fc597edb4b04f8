"""Static and dynamic entity descriptions: from pages and from a language model to one text per entity."""

LOCAL = "local:"  # what a model's name begins with that is a folder on this machine
