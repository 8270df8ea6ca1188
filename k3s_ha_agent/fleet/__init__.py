"""``k3s-ha-fleet``: many clusters to high availability, in waves, through their agents' APIs.

It keeps no state of its own. What is to be done next follows from what the agents say (datastore,
operations, members), and an operation is asked for under a key made of fleet, cluster, server, kind
and attempt, so that asking twice never begins it twice. Killed at any point, it is simply run again.
"""
