"""The agent's first process: it answers the probes, keeps the worker running, and does nothing else.

Small on purpose: what fetches and unpacks what strangers made is the worker's (`slipway_agent.loop`), which may die.
Imports of the agent only `model.readiness`, `node` and `reporting.log`.
"""
