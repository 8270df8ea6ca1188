"""Nodes with a real systemd, D-Bus and journald, for tests. README.md says how to use them."""
