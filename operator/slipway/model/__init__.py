"""The values that pass between the rooms: names, revisions, workloads, what a rollout remembers and plans, signals.

Invariant: values and what follows from one of them alone; nothing here looks at the world or decides.
Must not import: any other room but `api`. Pure.
"""
