"""A person at the terminal: `slipway`, and `kubectl slipway`.

What to show and which revision is meant are pure functions (`view`, `choice`, `counters`, `difference`, `history`,
`prediction`) and their pictures (`picture`, `document`); `app` reads options, `orders` and `following` ask and wait,
`cluster` alone speaks to the API server. The spec is never written: a person's commands are one annotation.
Invariant: whatever goes wrong ends in one line on stderr that says what to do, and in an exit code of `endings`.
Must not import: kopf, or the operator's shell. Needs the extra `cli` (typer, rich), which the operator's image has not.
"""
