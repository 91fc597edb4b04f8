"""Reports over finished runs: averages over seeds, significance, leaderboards, the page, what a work folder holds."""
