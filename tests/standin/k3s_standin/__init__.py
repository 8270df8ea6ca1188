"""A k3s for tests: a real SQLite/kine database, a real etcd, and what lies around them.

README.md beside this package lists every behaviour with the fact it rests on, and where the
stand-in is not k3s. It imports nothing of k3s_ha_agent: what tests compare must not share code.
"""
