"""Features that somebody else computed: read by record id into the cache, and written out of it."""
