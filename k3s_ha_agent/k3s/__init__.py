"""What k3s is: its files, its configuration, its datastores and what it answers.

Nothing here knows systemd or the machine; nothing here decides what to do.
"""
