"""A finished run over HTTP: new mentions linked in batches across requests, the KB's entities, reconciliation."""
