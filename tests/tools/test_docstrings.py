"""A docstring's three styles say the same."""

import pytest

from shipworthy.app.docstrings import Docstring, parse_docstring

GOOGLE = """Charge a card.

    It takes a while.

    Args:
        amount (int, optional): How much,
            in cents.
        card: Whose: the token.

    Returns:
        The receipt.

    Raises:
        KeyError: never.
    """
NUMPY = """Charge a card.

    It takes a while.

    Parameters
    ----------
    amount : int, optional
        How much,
        in cents.
    card
        Whose: the token.

    Returns
    -------
    The receipt.

    Raises
    ------
    KeyError
        never.
    """
SPHINX = """Charge a card.

    It takes a while.

    :param int amount: How much,
        in cents.
    :param card: Whose: the token.
    :type card: str
    :returns: The receipt.
    :raises KeyError: never.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_every_style_gives_the_description_and_the_parameters(text: str) -> None:
    assert parse_docstring(text) == Docstring(
        "Charge a card.\n\nIt takes a while.\n\nReturns: The receipt.",
        {"amount": "How much, in cents.", "card": "Whose: the token."},
    )


@pytest.mark.parametrize("text", [None, "", "  \n "])
def test_no_docstring_is_an_empty_description(text: str | None) -> None:
    assert parse_docstring(text) == Docstring()


def test_what_is_no_section_stays_in_the_description() -> None:
    text = "Look up.\n\nNote: be quick.\n\nExample:\n    look('x')\n\nArgs:\n    a: one\n\nMore prose."

    found = parse_docstring(text)

    assert found.description == "Look up.\n\nNote: be quick.\n\nExample:\n    look('x')\n\nMore prose."
    assert found.parameters == {"a": "one"}


def test_starred_and_shared_names_are_names() -> None:
    text = "Add.\n\nParameters\n----------\na, b : int\n    Summands.\n*rest : int\n    More."

    assert parse_docstring(text).parameters == {"a": "Summands.", "b": "Summands.", "rest": "More."}
