"""Shared by every room: errors, files, progress, logs, paths, receipts, child processes, the device. Knows nothing of
entity linking."""
