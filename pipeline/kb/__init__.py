"""A KB and its pictures from Wikidata, Wikipedia and Commons."""
