"""Tables over finished runs: averages over seeds, significance, leaderboards. Reads what runs left; no torch."""
