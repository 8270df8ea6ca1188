"""``k3s-ha-agentctl``: asks the agent over its unix socket, for people and for scripts."""
