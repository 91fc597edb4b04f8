"""From wanted views of records to rows of the cache."""
