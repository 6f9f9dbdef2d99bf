"""Agents: a subject that calls tools, reply by reply, until it answers or a limit stops it."""
