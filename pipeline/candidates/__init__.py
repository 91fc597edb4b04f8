"""Candidate lists: which entities a mention is compared with."""
