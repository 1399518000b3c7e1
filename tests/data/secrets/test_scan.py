from __future__ import annotations

import importlib
import inspect
import pydoc
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.secrets import KINDS, open_armour, redacted, scan
from pocketft.data.secrets.numbers import iban_checks, is_card_number, luhn_checks
from tests.data.secrets.planted import Maker, planted

PLANTED = planted()


def clean(text: str) -> str:
    return redacted(text, scan(text))


@pytest.mark.parametrize(
    ("kind", "sentence", "secret"), PLANTED, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(PLANTED)]
)
def test_each_kind_of_secret_is_replaced_and_nothing_around_it(kind: str, sentence: str, secret: str) -> None:
    text = f"We met at the harbour.\n{sentence.format(secret)}\nThen it rained."
    result = clean(text)
    assert result.startswith("We met at the harbour.\n") and result.endswith("\nThen it rained.")
    assert f"[{kind}]" in result and secret not in result
    before, after = sentence.split("{}")
    assert result == f"We met at the harbour.\n{before}[{kind}]{after}\nThen it rained."


@pytest.mark.parametrize("seed", range(20))
def test_secrets_drawn_anew_are_found_too(seed: int) -> None:
    for kind, sentence, secret in planted(seed):
        assert secret not in clean(sentence.format(secret)), (kind, sentence)


def test_every_kind_is_planted() -> None:
    assert {kind for kind, _, _ in PLANTED} == set(KINDS)
    assert len({secret.rstrip("0123456789")[:5] for _, _, secret in PLANTED}) >= 12


@pytest.mark.parametrize(
    "text",
    [
        "password: required",
        "def login(user, password: str = None) -> None:",
        "password = getpass.getpass()",
        "The password is wrong, try again.",
        "self.token = token",
        "token: the next token of the sequence",
        "api_key=os.environ['KEY']",
        "set API_KEY=your_api_key_here first",
        "https://user:password@example.com/",
        "https://en.wikipedia.org/wiki/Lamp_(light)#History",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "d41d8cd98f00b204e9800998ecf8427e",
        "sk-circle-fade-dot-wrapper-item",
        "On 2024-05-17 at 12:30:45 we left, and on 17.05.2024 we came.",
        "127.0.0.1 and 192.168.178.254, version 10.15.7.1234",
        "ISBN 978-3-16-148410-0",
        "1234567890123456 is no card, nor is 4111111111111112",
        "population 8 336 817, then 1,234,567.89",
        "The years 1914-1918 and 1939-1945",
        "3.14159265358979 and 0.30000000000000004",
        "a@example.com, git@github.com:owner/name.git, @decorator, x @ y",
        "DE12 was the name of the road",
        "550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert clean(text) == text


def test_ordinary_prose_and_code_stay_as_they_are() -> None:
    """At most 1 redaction in 10,000 characters of the standard library's sources and pages, e-mail addresses of their
    authors left out of the count, and of those fewer than 1 in 50,000 that are none."""
    text = "".join(
        pydoc.plain(pydoc.render_doc(module)) + inspect.getsource(module)
        for module in map(importlib.import_module, ("argparse", "getpass", "datetime", "hmac", "ssl", "textwrap"))
    )
    assert len(text) > 50_000
    found = scan(text)
    assert len(found) <= len(text) / 10_000
    assert sum(finding.kind != "EMAIL" for finding in found) <= len(text) / 50_000


def test_a_weak_password_is_one_too() -> None:
    assert clean("password: MyPassw0rd!") == "password: [PASSWORD]"
    assert clean('"password": "letmein1"') == '"password": "[PASSWORD]"'


def test_a_torn_private_key_goes_as_far_as_it_looks_like_one() -> None:
    torn = Maker().pem()[:-60]
    assert clean(f"here:\n{torn}\n\nThe rain came.") == "here:\n[PRIVATE_KEY]\n\nThe rain came."
    assert open_armour(f"here:\n{torn}") and not open_armour(Maker().pem()) and not open_armour("no key")


def test_a_private_key_inside_json_goes_whole() -> None:
    pem = Maker().pem("").replace("\n", "\\n")
    assert clean(f'{{"private_key": "{pem}\\n", "type": "x"}}') == '{"private_key": "[PRIVATE_KEY]\\n", "type": "x"}'


def test_checksums_decide() -> None:
    make = Maker()
    for _ in range(50):
        card, iban = make.card(), make.iban()
        assert luhn_checks(card) and is_card_number(card) and iban_checks(iban)
        wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
        assert not is_card_number(wrong)
        assert not iban_checks(iban[:-1] + str((int(iban[-1]) + 1) % 10))
    draw = random.Random(3)
    numbers = ["".join(draw.choice("0123456789") for _ in range(16)) for _ in range(20_000)]
    assert sum(map(is_card_number, numbers)) / len(numbers) < 0.03


@given(st.text(max_size=400))
def test_any_text_is_scanned_and_findings_are_in_order(text: str) -> None:
    findings = scan(text)
    assert all(0 <= one.start < one.end <= len(text) and one.kind in KINDS for one in findings)
    assert all(one.end <= following.start for one, following in pairwise(findings))


@given(st.text(max_size=60), st.sampled_from(PLANTED), st.text(max_size=60))
def test_a_secret_is_found_whatever_stands_in_the_lines_around_it(
    before: str, one: tuple[str, str, str], after: str
) -> None:
    assert one[2] not in clean(f"{before}\n\n{one[1].format(one[2])}\n\n{after}")
