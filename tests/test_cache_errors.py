"""Errors of the cache are types: they stay so on the way out of a child process, and a command adds what mends them."""

import inspect

import pytest

from cache import errors
from foundation import child
from mel_cache.commands.shell import messages

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_says_what_mends_it(kind, capsys):
    messages.show(kind("shard x.h5 is bad"))
    line = capsys.readouterr().err
    assert line == f"error: shard x.h5 is bad; {messages.REMEDIES[kind]}\n"


def raised(name: str) -> None:
    """Run in the child."""
    raise getattr(errors, name)("shard x.h5 is bad")


def test_an_error_of_a_child_keeps_its_type(monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.path.parent), prepend=":")
    with pytest.raises(errors.Gone, match=r"shard x.h5 is bad"):
        child.run("test_cache_errors:raised", "Gone", str)
