"""How the project asks servers: pace, patience, limits, answers that are kept."""
