"""Prometheus' text form, read line by line: only the samples that are wanted cost anything, and a line that can't be
read spoils no other.

The parser is prometheus_client's; a line by itself has no TYPE, so its name stays as the server wrote it.
Must not import: I/O. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["Sample", "lines_of", "read_sample"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def lines_of(page: str, names: frozenset[str]) -> Iterator[str]:
    """The lines with samples of these metrics.

    >>> list(lines_of("# TYPE a counter\\na 1\\nab 2\\na{} 3", frozenset({"a"})))
    ['a 1', 'a{} 3']
    """
    for line in page.splitlines():
        name = _NAME.match(line)
        if name is not None and name[0] in names:
            yield line


def read_sample(line: str) -> Sample:
    """The sample on a line. Raises ValueError for a line that is none.

    >>> sample = read_sample('requests{model="m",path="a \\\\"b\\\\"",} 3.0 1700000000')
    >>> sample.name, sample.labels, sample.value
    ('requests', {'model': 'm', 'path': 'a "b"'}, 3.0)
    """
    try:
        ((sample,),) = (family.samples for family in text_string_to_metric_families(line))
    except (IndexError, ValueError) as error:  # the parser looks at the first character of an empty label name, too
        raise ValueError(f"a line is no sample: {line[:200]!r}") from error
    return sample
