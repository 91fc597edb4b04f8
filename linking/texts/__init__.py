"""Raw text linked: mentions found by a library, each linked with its context and picture."""
