"""Personal data and secrets in rows, by rules for what has a form of its own.

Found are e-mail addresses, telephone numbers, IP addresses, card numbers and IBANs (with right
check digits), US social security numbers, and keys of known services, tokens and private keys.
Not found is what has no form: names, postal addresses, birthdays, health. Addresses and numbers
that are reserved for examples (RFC 2606, RFC 5737, 555-01xx) are no findings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from refine_dagster.screening.finding import FIELDS, Finding

CHECK = "private_data"
_EXAMPLE_DOMAIN = re.compile(r"(^|[@.])(example(\.(com|net|org))?|test|invalid|localhost)$", re.I)


def _is_real_address(text: str) -> bool:
    return _EXAMPLE_DOMAIN.search(text.rpartition("@")[2]) is None


def _is_public(text: str) -> bool:
    """Whether it is an IP address of the public network, not one reserved for documents."""
    try:
        return ip_address(text).is_global
    except ValueError:
        return False


def _is_telephone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 9 <= len(digits) <= 15 and "55501" not in digits


def has_check_digit(text: str) -> bool:
    """Whether digits pass Luhn's test, as card numbers do.

    >>> has_check_digit("4111 1111 1111 1111"), has_check_digit("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(digit) for digit in text if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether the two check digits are right (ISO 13616).

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    joined = "".join(text.split()).upper()
    if not 15 <= len(joined) <= 34:
        return False
    number = "".join(str(int(letter, 36)) for letter in joined[4:] + joined[:4])
    return int(number) % 97 == 1


def _any(text: str) -> bool:
    return True


# Rule -> its pattern, and what a match must pass. An earlier rule has its span to itself.
RULES: Mapping[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "private_key": (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), _any),
    "token": (
        re.compile(
            r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"
            r"|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|xox[abprs]-[\w-]{10,}"
            r"|AIza[\w-]{35}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
        ),
        _any,
    ),
    "email": (
        re.compile(r"\b[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b"),
        _is_real_address,
    ),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), is_iban),
    "card_number": (re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), has_check_digit),
    "us_social_security_number": (
        re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"),
        _any,
    ),
    "ip_address": (
        re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b", re.I),
        _is_public,
    ),
    "telephone": (
        re.compile(
            r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,5}\)[ .-]?)?"
            r"\d{2,5}(?:[ .-]\d{2,5}){1,4}\b|\+\d{9,15}\b"
        ),
        _is_telephone,
    ),
}


def private_data(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What the rules find in rows with `row_id` and the fields, in order of rows and places."""
    found = []
    for row in rows:
        for field in FIELDS:
            found += _in_text(row["row_id"], field, row[field])
    return found


def _in_text(row_id: str, field: str, text: str) -> list[Finding]:
    found: list[Finding] = []
    for rule, (pattern, accepts) in RULES.items():
        for match in pattern.finditer(text):
            start, end = match.span()
            taken = any(start < other.end and other.start < end for other in found)
            if not taken and accepts(match[0]):
                found.append(Finding(CHECK, rule, row_id, field, start, end, match[0]))
    return sorted(found, key=lambda one: one.start)
