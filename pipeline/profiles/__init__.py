"""Profiles: which model and preprocessing stand behind each feature."""
