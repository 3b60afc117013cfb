"""Pods as containers of one Docker Engine (docs/docker.md).

`platform` is the port's implementation. It asks `launcher`, a process of its own and the only one that holds
Docker's socket, which is root on its machine: so it takes names and numbers (`wanted`), and what Docker is
told besides is fixed (`engine`). What was asked is on the launcher's disk (`records`), so pods come back at
their addresses whatever was stopped. `diagnosis` says in a sentence how it is.
"""
