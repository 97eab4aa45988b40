"""Credentials have no place in config: the ledger, Dagster's log and errors show its values."""

from __future__ import annotations

import re
from collections.abc import Mapping

from refine_dagster.config.section import ProfileError

# A user in an address, a token of Hugging Face, or a parameter of an address that is a secret.
CREDENTIAL = re.compile(
    r"://[^/\s@]+@|\bhf_[A-Za-z0-9]{16,}|[?&](?:\w*token|\w*key|secret|password)=[^&\s]+",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """The text without credentials."""
    return CREDENTIAL.sub("...", text)


def refusal(origins: Mapping[str, str]) -> ProfileError:
    """The error for fields with a credential, which does not show it; field -> where it stands."""
    fields = ", ".join(f"{name} ({origin})" for name, origin in sorted(origins.items()))
    return ProfileError(
        "the value holds a credential, and config is recorded in the ledger and in Dagster's log",
        where=fields,
        fix="leave it out: log in with `hf auth login`, or set HF_TOKEN",
    )
