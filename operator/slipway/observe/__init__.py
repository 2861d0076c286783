"""The world → one frozen Snapshot: objects, pods and their problems, what agents, routers and servers say.

Invariant: what can't be read is absent, never an error; nothing here decides, and nothing is rendered.
Must not import: decide, render, report, controller. Pure: objects and answers come in as JSON and text.
"""
