"""The command line, for people: `slipway`, and `kubectl slipway`.

    app          the commands and their options; each calls one of
                 show (status, history, diff), watch (--watch, --wait), predict, digest, steer (promote, pause, …)
    session      what a command works with: client, terminal, flags
    view         a ModelDeployment as a person sees it; with history, counters, compare, difference all that is shown
    resolve      which revision was typed, whether a command can work, which commands come next
    picture      a view drawn for a terminal; output: the same for scripts
    command      the annotation that carries a person's command, and the operator's answer to it
    client       what the commands need of a cluster; cluster: the API server behind it
    errors       exit codes, and the one line on stderr

Invariant: the spec is never written; a person's command is one annotation. Every mistake ends in one line on stderr
that says what to do, and in an exit code of `errors`.
Must not import: kopf, or the operator's shell. Needs the extra `cli` (typer, rich), which the operator's image lacks.
"""
