"""Whether a person's locale has more signs than ASCII: Python itself writes UTF-8 even where the locale is C.

Must not import: anything of Slipway, or anything that takes long to import.
"""

from __future__ import annotations

from collections.abc import Mapping


def is_ascii_locale(environment: Mapping[str, str]) -> bool:
    """Whether the locale is set to C, and not just not set: a container has none, and its terminal may show all signs.

    >>> is_ascii_locale({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}), is_ascii_locale({"LC_ALL": "", "LANG": "C.UTF-8"})
    (True, False)
    """
    locale = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    return locale in ("C", "POSIX")
