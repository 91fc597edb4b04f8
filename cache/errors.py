"""What can be wrong with a cache, as types: a command says which of its options mends each (see
`mel_cache.commands.shell.messages`)."""

from foundation.errors import UserError


class Damaged(UserError):
    """A file of the cache that is not as it was written; once it is removed, the next extraction writes it again."""


class Gone(UserError):
    """A file of the cache that was there; the next extraction writes it again."""


class RowsMissing(UserError):
    """Rows that were never extracted into this cache."""


class NotFinite(UserError):
    """A model's row with NaN, infinity, or a value beyond the range of the output's dtype."""
