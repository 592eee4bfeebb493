"""Deliberately broken variants."""


def switch_on(name: str) -> None:
    raise KeyError(name)
