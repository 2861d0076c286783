"""The one error a person sees: what failed, why, and what to do next."""


class ClusterError(Exception):
    """A cluster can't be had, or can't be stopped; raised anywhere in the package and caught in `__main__` alone."""

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(f"{what}: {why}\n  what to do: {next_step}")
        self.what = what
        self.why = why
        self.next_step = next_step
