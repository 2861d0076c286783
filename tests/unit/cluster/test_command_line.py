"""The cluster's command line: whose words are whose."""

import pytest

from tests.e2e.cluster.__main__ import parse


@pytest.mark.parametrize(
    ("words", "name", "arguments"),
    [
        ("kubectl -n team get pods", "native", "-n team get pods"),
        ("kubectl get pods -n team", "native", "get pods -n team"),
        ("kubectl --name other -n team get pods", "other", "-n team get pods"),
        ("kubectl --name=other --context x get pods", "other", "--context x get pods"),
        ("exec -- make unit", "native", "make unit"),
        ("exec sh -c true", "native", "sh -c true"),
        ("exec kubectl exec pod -- ls", "native", "kubectl exec pod -- ls"),
        ("exec", "native", ""),
    ],
)
def test_the_words_after_the_verb_are_the_other_programs(words: str, name: str, arguments: str) -> None:
    chosen = parse(words.split())
    assert (chosen.name, chosen.arguments) == (name, arguments.split())
