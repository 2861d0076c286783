"""Plan → objects: the Service, revisions, pod templates, agents' configuration, routers; and which of them differ.

Invariant: names are deterministic, every object has our owner reference and labels, and nothing is decided here.
Must not import: report, controller. Pure.
"""
