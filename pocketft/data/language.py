"""In which language a text is written, by its letters and its commonest words: good enough to count documents by.

Knows the scripts that belong to one language, and some twenty languages in Latin and Cyrillic letters. What it cannot
tell is "other".
"""

from __future__ import annotations

import re
from collections import Counter

from pocketft.data.documents import Document

SAMPLE_CHARS = 500
OTHER = "other"
_MIN_WORDS = 4

_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),  # before Chinese: Japanese uses its letters too
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("bn", re.compile("[\u0980-\u09ff]")),
    ("ta", re.compile("[\u0b80-\u0bff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
)
_COMMON = {
    "en": "the and of to is in that it you for was with have this are not but they what i we be on my",
    "de": "und der die das ist nicht ich zu den mit ein eine auf es dass auch war wir sie von aber im noch",
    "fr": "et le la les des est que pas je une pour dans qui sur vous au avec mais il nous du c'est ce",
    "es": "que de el la los las no es una por con para se lo un pero como más del al está yo y",
    "pt": "que não de do da em uma os para com por mais como mas foi eu dos se na ele você isso",
    "it": "che di il la non per una sono con ma del della gli anche come più mi ho nel si è",
    "nl": "de het een en van ik dat niet is op te zijn maar voor met ook we er naar heb wat nog",
    "sv": "och att det som en är jag inte på för av med den har till om var vi men så ett",
    "da": "og det at er en jeg ikke til på af med for den de har som vi men kan så et",
    "no": "og det er jeg ikke en på til som for av med at han vi har men så den meg et",
    "fi": "ja on ei se että hän oli mutta ovat niin kun minä mitä kuin myös sen tämä jos ole",
    "pl": "nie się na to jest że do co jak ale w z tak po za od czy było już tylko mnie",
    "cs": "se na je že to jsem ale jako za by tak pro jsou od po jen už co nebo když mi",
    "hu": "a az és hogy nem is egy meg de ez van csak már mint volt azt ha vagy ki még",
    "ro": "și în nu de la că este un o pe din cu să mai ca sunt pentru dar am fost",
    "tr": "ve bir bu da de için ne çok ben mi ama gibi daha var o değil kadar olarak ile",
    "id": "yang dan di ini itu dengan untuk tidak dari dalam akan pada saya juga ke ada bisa sudah",
    "vi": "và là của không có được cho người này một những với trong để đã các khi tôi",
    "ru": "и в не на я что он с как это но по у из за мы вы так же все был бы от",
    "uk": "і не на що я в це та до як але з він ми ви так за від було для про є",
    "bg": "и на да не се в за от е с че по като но със ще са това аз има",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def _index() -> dict[str, tuple[str, ...]]:
    languages: dict[str, list[str]] = {}
    for language, words in _COMMON.items():
        for word in words.split():
            languages.setdefault(word, []).append(language)
    return {word: tuple(known) for word, known in languages.items()}


_LANGUAGES = _index()


def language_of(document: Document) -> str:
    """An ISO 639-1 code, or "other"."""
    text = document.text[:SAMPLE_CHARS]
    for turn in document.turns:
        if len(text) >= SAMPLE_CHARS:
            break
        text += "\n" + turn.text[:SAMPLE_CHARS]
    if not text.isascii():
        for language, letters in _SCRIPTS:
            if len(letters.findall(text)) > len(text) // 20:
                return language
    words = _WORD.findall(text.lower())
    points: Counter[str] = Counter()
    for word in words:
        for language in _LANGUAGES.get(word, ()):
            points[language] += 1
    best = points.most_common(2)
    if not best or len(words) < _MIN_WORDS or best[0][1] < max(2, len(words) // 20):
        return OTHER
    return best[0][0] if len(best) == 1 or best[0][1] > best[1][1] else OTHER
