"""Odd inputs for every reader of what comes from outside: `targets` lists them, `campaign` runs thousands."""
