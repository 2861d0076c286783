"""How the project's container images are built into OCI archives; serving-images/build is its command line.

Standard library only: it runs on a bare machine, before any environment exists. Must not import: anything of the tests,
which add images of their own to it (tests/e2e/images/build).
"""
