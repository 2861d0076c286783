"""URLs that open what they name, for whoever reads them. Pure: no urllib here.

Agents keep such parts out of what they write and say; what a person writes into an object, everyone reads who may.
"""

from __future__ import annotations

SIGNATURES = frozenset(
    {
        "x-amz-signature",
        "x-amz-security-token",
        "x-goog-signature",
        "x-oss-signature",
        "x-cos-security-token",
        "signature",
        "sig",
        "token",
        "access_token",
        "private_token",
        "api_key",
        "apikey",
    }
)
"""Parameters, in lower case, by which stores let in who has the URL: AWS, Google, Azure and their like."""


def show_url(url: str) -> str:
    """For messages: without password and query. https://u:p@host/a?sig=x is https://host/a?…"""
    before, question, _ = url.partition("?")
    scheme, separator, rest = before.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" + ("?…" if question else "")


def credential_in(url: str) -> str | None:
    """What opens a URL for whoever reads it: a parameter's name, or "a password"; None where nothing does.

    a.onnx?sig=x&sv=1 has "sig", https://user:word@host/a "a password", a.onnx?download=true None.
    """
    before, _, query = url.partition("?")
    authority = before.partition("://")[2].partition("/")[0]
    if ":" in authority.rpartition("@")[0]:
        return "a password"
    names = (part.partition("=")[0] for part in query.partition("#")[0].replace(";", "&").split("&"))
    return next((name for name in names if name.lower() in SIGNATURES), None)
