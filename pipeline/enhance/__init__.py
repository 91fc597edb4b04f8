"""Static and dynamic entity descriptions: from pages and from a language model to one text per entity."""
