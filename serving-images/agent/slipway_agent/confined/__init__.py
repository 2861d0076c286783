"""Processes of their own for what strangers made: what they cost and break, they cost and break for themselves.

Invariant: a confined process has no secrets (no environment of the agent's, no file left open), bounded memory and
output, and ends with the agent. Imports nothing of the agent but `model`.
"""
