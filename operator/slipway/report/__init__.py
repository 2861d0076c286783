"""Plan + Snapshot → what a person and a script read: status, conditions, events.

Invariant: a status is a function of what was observed and planned; asked twice, it is the same.
Must not import: controller. Pure.
"""
