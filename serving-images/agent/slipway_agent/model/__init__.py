"""The values that pass between the rooms: errors, golden requests, signatures, the ledger, what a server said.

Pure; imports nothing else of the agent.
"""
