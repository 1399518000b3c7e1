"""Secrets of every kind, made up anew from a seed: none stands in this repository, and none opens anything."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


class Maker:
    def __init__(self, seed: int = 7) -> None:
        self._draw = random.Random(seed)

    def chars(self, count: int, alphabet: str = ALNUM) -> str:
        # A digit and both cases among the first, as every key that a machine draws has.
        drawn = [self._draw.choice(alphabet) for _ in range(count)]
        for at, one in ((0, "7"), (1, "q"), (2, "Z"), (3, "4")):
            if one in alphabet and count > 8:
                drawn[at] = one
        return "".join(drawn)

    def digits(self, count: int) -> str:
        return self.chars(count, string.digits)

    def card(self, prefix: str = "4", length: int = 16) -> str:
        body = prefix + self.digits(length - len(prefix) - 1)
        total = 0
        for index, character in enumerate(reversed(body)):
            value = int(character)
            total += value if index % 2 else sum(divmod(2 * value, 10))
        return body + str(-total % 10)

    def iban(self, country: str = "DE", digits: int = 18) -> str:
        account = self.digits(digits)
        number = int(account + "".join(str(int(letter, 36)) for letter in country) + "00")
        return f"{country}{98 - number % 97:02}{account}"

    def pem(self, kind: str = "RSA ") -> str:
        body = base64.b64encode(self._draw.randbytes(600)).decode()
        lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
        return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"

    def jwt(self) -> str:
        parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": self.digits(9)})]
        parts.append(self._draw.randbytes(32))
        return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)

    def wif(self) -> str:
        raw = b"\x80" + self._draw.randbytes(32)
        number = int.from_bytes(raw + hashlib.sha256(hashlib.sha256(raw).digest()).digest()[:4], "big")
        word = ""
        alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
        while number:
            number, digit = divmod(number, 58)
            word = alphabet[digit] + word
        return word


def planted(seed: int = 7) -> list[tuple[str, str, str]]:
    """(kind, a sentence with {} in it, the secret that belongs there)"""
    make = Maker(seed)
    spaced = make.iban("GB", 18)
    card = make.card("5" + "3")
    return [
        ("API_KEY", "The key for the small project is {} and it costs a lot.", "sk-proj-" + make.chars(48)),
        ("API_KEY", "export ANTHROPIC_API_KEY={}", "sk-ant-api03-" + make.chars(80)),
        ("API_KEY", "git clone with {} as the user", "ghp_" + make.chars(36)),
        ("API_KEY", "aws_access_key_id = {}", "AKIA" + make.chars(16, string.ascii_uppercase + "234567")),
        ("API_KEY", "aws_secret_access_key = {}", make.chars(40, ALNUM + "/+")),
        ("API_KEY", "Slack: {}", "xoxb-" + make.digits(12) + "-" + make.digits(12) + "-" + make.chars(24)),
        ("API_KEY", "maps?key={}&zoom=4", "AIza" + make.chars(35, ALNUM + "_-")),
        ("API_KEY", '"stripe": "{}"', "sk_live_" + make.chars(24)),
        ("API_KEY", "HF_TOKEN={}", "hf_" + make.chars(34)),
        ("API_KEY", "//registry/:_authToken={}", "npm_" + make.chars(36)),
        ("API_KEY", "the bot answers to {}", make.digits(10) + ":AA" + make.chars(33)),
        ("API_KEY", "mail goes out with {}.", "SG." + make.chars(22) + "." + make.chars(43)),
        ("API_KEY", 'client_secret: "{}"', make.chars(32)),
        ("TOKEN", "Cookie: session={}; path=/", make.jwt()),
        ("TOKEN", "Authorization: Bearer {}", make.chars(40)),
        ("PRIVATE_KEY", "the old server:\n{}\nDo not lose it.", make.pem()),
        ("PRIVATE_KEY", "ssh:\n{}", make.pem("OPENSSH ")),
        ("PRIVATE_KEY", "the wallet {} is empty", make.wif()),
        ("PASSWORD", "password: {}", "hunter-" + make.chars(6)),
        ("PASSWORD", "WLAN-Passwort: {}", "Sonnenblume"),
        ("PASSWORD", "My password is {}.", make.chars(9) + "!"),
        ("PASSWORD", "DB_PASSWORD='{}'", make.chars(12)),
        ("PASSWORD", "postgres://anna:{}@db.internal:5432/shop", make.chars(14)),
        ("CARD_NUMBER", "Visa {} 04/29", make.card()),
        ("CARD_NUMBER", "Master {} Anna", " ".join(card[at : at + 4] for at in range(0, 16, 4))),
        ("CARD_NUMBER", "amex {}", make.card("37", 15)),
        ("IBAN", "Bitte auf {} überweisen.", make.iban()),
        ("IBAN", "account {} at the bank", " ".join(spaced[at : at + 4] for at in range(0, 22, 4))),
        ("EMAIL", "write to {}, she answers", "anna.lindqvist+boat@posteo.de"),
        ("PHONE", "call me at {} after six", "+49 171 " + make.digits(7)),
        ("PHONE", "Her number: {}", "(415) 667-" + make.digits(4)),
        ("PHONE", "Tel. {}", "030/" + make.digits(8)),
        ("PHONE", "or {}", "020 7946 " + make.digits(4)),
    ]
