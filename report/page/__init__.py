"""The page of a report: one HTML file that holds all it shows and loads nothing."""
