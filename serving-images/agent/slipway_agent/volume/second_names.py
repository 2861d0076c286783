"""Links inside an archive or image: where each leads in the end. Pure; imports nothing of the agent."""

from collections.abc import Mapping


def follow_links(links: Mapping[str, str]) -> dict[str, str]:
    """Each link's last destination, itself no link; a ring leads to one of its own.

    {a: b, b: c} is {a: c, b: c}; {a: b, b: a} has a destination that is a link.
    """
    ends: dict[str, str] = {}
    for link in links:
        chain: dict[str, None] = {}
        here = link
        while here in links and here not in ends and here not in chain:
            chain[here] = None
            here = links[here]
        ends.update(dict.fromkeys(chain, ends.get(here, here)))
    return ends
