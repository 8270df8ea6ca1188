"""What the machine is: systemd, the journal, files that change, memory, disks, sockets, clocks.

Knows nothing of k3s.
"""
