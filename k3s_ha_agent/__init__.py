"""Moves a k3s server from SQLite to embedded etcd and back, and proves the data on the way."""

__version__ = "0.1.0"
