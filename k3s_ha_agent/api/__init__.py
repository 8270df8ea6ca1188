"""The HTTP API of the agent, version 1: what people and programs ask it, over a unix socket."""
