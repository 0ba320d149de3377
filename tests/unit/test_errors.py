"""The tree of errors: Ray carries them between processes, and clients read their fields."""

import pickle

import pytest

from gary import errors
from gary.errors import ClientError, GaryError, ServerError, SourceError, TooLarge


def _tree(root: type[GaryError]) -> list[type[GaryError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


@pytest.mark.parametrize("kind", _tree(GaryError), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[GaryError]) -> None:
    """Type, sentence, code and status are the same on the other side."""
    error = kind("the sentence", "the_code")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.code, copy.http_status) == (
        kind,
        "the sentence",
        "the_code",
        kind.http_status,
    )


@pytest.mark.parametrize("kind", _tree(GaryError), ids=lambda kind: kind.__name__)
def test_statuses_follow_the_branches(kind: type[GaryError]) -> None:
    """A client's fault is 4xx and ours 5xx, so that who is to blame can be read off the type."""
    if issubclass(kind, ClientError):
        assert 400 <= kind.http_status < 500
    if issubclass(kind, ServerError):
        assert kind.http_status >= 500


def test_the_drawn_tree_is_the_tree() -> None:
    """Every class stands in the module's picture."""
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in _tree(GaryError))


def test_code_is_the_class_own_unless_given() -> None:
    assert TooLarge("x").code == "too_large"
    assert SourceError("x", "geo").code == "geo"
    assert str(SourceError("a sentence", "geo")) == "a sentence"
