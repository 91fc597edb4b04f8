"""A page on localhost over one finished run: search its test mentions, look at cases, link a sentence of your own."""
