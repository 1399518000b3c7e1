"""One realistic file of every kind that is read, as bytes under the name that its program gives it."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _zip(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _pdf(lines: list[str]) -> bytes:
    words = "BT /F1 12 Tf 72 720 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        " /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(words)} >>\nstream\n{words}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    text, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(text))
        text += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(text)}\n%%EOF\n"
    return (text + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}").encode("latin-1")


TEXT = b"It rained all night.\n\nIn the morning the harbour was still, and we took the boat out.\n"

OBSIDIAN = b"""---
title: The boat
tags: [sea, work]
---
# The boat

We painted it with [[Notes/Ben Okoro|Ben]] and read [[Knots#Bowline]]. ^para1

![[boat.png]]
![the hull](attachments/hull.jpg)
See [the list](Lists/paint.md) and [the shop](https://example.org/paint).
%% not for others %%

```md
[[stays as it is]]
```
"""

NOTION = b"""# Reading list

Created: March 3, 2024 9:12 AM
Tags: books, winter

A page about [Middlemarch](Middlemarch%20aaaabbbbccccddddeeeeffff00001111.md).
"""

ORG = b"""#+TITLE: Garden
#+AUTHOR: Anna
* TODO Beans
  SCHEDULED: <2024-05-02 Thu>
  :PROPERTIES:
  :ID: 5f2a
  :END:
  Sow them by the wall, see [[https://example.org/beans][the guide]].
** Notes
   The soil is dry. [[file:soil.jpg]]
#+BEGIN_SRC python
print("stays")
#+END_SRC
"""

HTML = b"""<!DOCTYPE html>
<html><head><title>Bread &amp; salt</title><style>p { color: red }</style><script>var x = "<p>no</p>";</script></head>
<body><nav><a href="/">Home</a></nav>
<h1>Bread</h1><p>Mix the flour,
the water &mdash; and wait.</p><ul><li>Flour<li>Water</ul>
<pre>  500 g
  350 g</pre><p>Done<br>today.</p></body></html>
"""

CODE = b'''#!/usr/bin/env python3
# Reads the tide table.
# Prints tomorrow.


def tide(day: int) -> float:
    """Height in metres."""
    return 2.5 + day % 3
'''

CSV = b'id,note,text\n1,a,"Bread, and\nbutter"\n2,b,Salt\n3,c,\n'
TSV = b"date\tentry\n2024-01-01\tSnow.\n2024-01-02\tThaw, at last.\n2024-01-03\tRain.\n"

WHATSAPP_ANDROID = """12/31/23, 9:41 PM - Messages and calls are end-to-end encrypted.
12/31/23, 9:41 PM - Anna Lee: Are you coming?
12/31/23, 9:42 PM - Ben: Yes!
At ten, I think.
12/31/23, 9:42 PM - Ben: <Media omitted>
12/31/23, 9:43 PM - Ben: IMG-20231231-WA0001.jpg (file attached)
The view from here
12/31/23, 9:45 PM - Anna Lee: Lovely: really
12/31/23, 9:46 PM - Ben changed the subject to "New year"
1/1/24, 11:05 AM - Ben: Happy new year
1/1/24, 11:06 AM - Anna Lee: And to you
1/1/24, 11:06 AM - Anna Lee: This message was deleted
""".replace(" PM", "\u202fPM").encode()

WHATSAPP_IPHONE = """[31.12.23, 21:41:12] Anna Lee: \u200eMessages and calls are end-to-end encrypted.
[31.12.23, 21:41:12] Anna Lee: Kommst du?
\u200e[31.12.23, 21:42:00] Ben: \u200e<attached: 00000003-PHOTO-2023-12-31-21-42-00.jpg>
[31.12.23, 21:42:30] Ben: Ja!
Um zehn, denke ich. \u200e<This message was edited>
[31.12.23, 21:45:02] Anna Lee: Schön
""".encode()


def _telegram_message(number: int, name: str, user: int, time: int, text: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "type": "message", "date": "2024-02-01T10:00:00", "date_unixtime": str(time),
            "from": name, "from_id": f"user{user}", "text": text, "text_entities": []} | more  # fmt: skip


TELEGRAM_MESSAGES = [
    {"id": 1, "type": "service", "date": "2024-02-01T09:00:00", "actor": "Anna", "action": "phone_call", "text": ""},
    _telegram_message(2, "Anna", 11, 1706781600, "Did you see the boat?"),
    _telegram_message(
        3, "Ben", 22, 1706781660, ["Yes, at ", {"type": "link", "text": "https://example.org"}, " — nice"]
    ),
    _telegram_message(4, "Ben", 22, 1706781670, "It is blue"),
    _telegram_message(5, "Anna", 11, 1706781700, "", photo="photos/1.jpg"),
    _telegram_message(6, "Anna", 11, 1706781800, "Blue is good"),
    _telegram_message(7, "Ben", 22, 1706781900, "Somebody else's words", forwarded_from="News"),
]
TELEGRAM = _json({"name": "Anna", "type": "personal_chat", "id": 33, "messages": TELEGRAM_MESSAGES})
TELEGRAM_ACCOUNT = _json({
    "about": "Here is the data you requested.",
    "personal_information": {"user_id": 22, "first_name": "Ben", "bio": "x"},
    "contacts": {"about": "…", "list": [{"user_id": 11, "first_name": "Anna"}]},
    "chats": {"about": "…", "list": [
        {"name": "Anna", "type": "personal_chat", "id": 33, "messages": TELEGRAM_MESSAGES},
        {"type": "saved_messages", "id": 34, "messages": [_telegram_message(9, "Ben", 22, 1706799999, "Buy bread")]},
    ]},
})  # fmt: skip

SIGNAL_LINES = b"\n".join(
    json.dumps(line).encode()
    for line in (
        {"version": "1", "backupTimeMs": "1712000000000", "mediaRootBackupKey": "AA=="},
        {"account": {"profileKey": "AA==", "givenName": "Ben"}},
        {"recipient": {"id": "1", "contact": {"profileGivenName": "Anna", "profileFamilyName": "Lee"}}},
        {"chat": {"id": "7", "recipientId": "1"}},
        {"chatItem": {"chatId": "7", "authorId": "1", "dateSent": "1711000000000", "incoming": {},
                      "standardMessage": {"text": {"body": "Tea?"}}}},
        {"chatItem": {"chatId": "7", "authorId": "0", "dateSent": "1711000060000", "outgoing": {},
                      "standardMessage": {"text": {"body": "Always."}}}},
        {"chatItem": {"chatId": "7", "authorId": "0", "dateSent": "1711000070000", "outgoing": {},
                      "stickerMessage": {}}},
    )
)  # fmt: skip
SIGNAL_EXPORT = b"\n".join(
    json.dumps(line | {"quote": "", "sticker": "", "reactions": [], "attachments": []}).encode()
    for line in (
        {"date": "2024-03-21T07:06:40", "sender": "Anna", "body": "Tea?"},
        {"date": "2024-03-21T07:07:40", "sender": "Me", "body": "Always."},
        {"date": "2024-03-21T07:08:40", "sender": "Me", "body": ""},
    )
)

DISCORD = _json({
    "guild": {"id": "0", "name": "Direct Messages"},
    "channel": {"id": "5", "type": "DirectTextChat", "category": "Private", "name": "anna", "topic": None},
    "dateRange": {"after": None, "before": None},
    "exportedAt": "2024-04-01T10:00:00+00:00",
    "messages": [
        {"id": "1", "type": "Default", "timestamp": "2024-03-01T10:00:00.123+00:00", "content": "Any plans?",
         "author": {"id": "1", "name": "anna", "nickname": "Anna", "isBot": False}, "attachments": []},
        {"id": "2", "type": "Reply", "timestamp": "2024-03-01T10:01:00+00:00", "content": "The sea.",
         "author": {"id": "2", "name": "ben", "nickname": "Ben", "isBot": False}, "attachments": []},
        {"id": "3", "type": "Default", "timestamp": "2024-03-01T10:02:00+00:00", "content": "Beep",
         "author": {"id": "3", "name": "bot", "nickname": "Bot", "isBot": True}},
        {"id": "4", "type": "ChannelPinnedMessage", "timestamp": "2024-03-01T10:03:00+00:00", "content": "Pinned.",
         "author": {"id": "1", "name": "anna", "nickname": "Anna", "isBot": False}},
    ],
    "messageCount": 4,
})  # fmt: skip
DISCORD_PACKAGE = _json([
    {"ID": 2, "Timestamp": "2024-03-02 10:00:00", "Contents": "Second", "Attachments": ""},
    {"ID": 1, "Timestamp": "2024-03-02 09:59:00", "Contents": "First", "Attachments": ""},
])  # fmt: skip

SLACK_USERS = _json([
    {"id": "U1", "name": "anna", "profile": {"display_name": "Anna", "real_name": "Anna Lee"}},
    {"id": "U2", "name": "ben", "real_name": "Ben Okoro", "profile": {"display_name": ""}},
])  # fmt: skip
SLACK_DAY = _json([
    {"type": "message", "subtype": "channel_join", "user": "U2", "text": "<@U2> has joined", "ts": "1711000000.000100"},
    {"type": "message", "user": "U1", "text": "Hi <@U2>, see <https://example.org|the page> &amp; tell",
     "ts": "1711000001.000200"},
    {"type": "message", "user": "U2", "text": "Read it <!here>", "ts": "1711000050.000300"},
])  # fmt: skip


def _chatgpt_node(name: str, parent: str | None, role: str | None, text: str, kind: str = "text") -> dict[str, Any]:
    message = None if role is None else {
        "id": name, "author": {"role": role, "name": None, "metadata": {}}, "create_time": 1700000000.5,
        "content": {"content_type": kind, "parts": [text]}, "recipient": "all",
    }  # fmt: skip
    return {"id": name, "message": message, "parent": parent, "children": []}


CHATGPT = _json([
    {"title": "Bread", "create_time": 1700000000.123, "update_time": 1700000100.5, "current_node": "d", "mapping": {
        "r": _chatgpt_node("r", None, None, ""),
        "s": _chatgpt_node("s", "r", "system", ""),
        "a": _chatgpt_node("a", "s", "user", "How long does dough rest?"),
        "b": _chatgpt_node("b", "a", "assistant", "An hour (first try)."),
        "c": _chatgpt_node("c", "a", "assistant", "print(1)", kind="code"),
        "d": _chatgpt_node("d", "c", "assistant", "About two hours."),
    }},
    {"title": "Nothing", "create_time": 1700000000.0, "current_node": "r",
     "mapping": {"r": _chatgpt_node("r", None, None, "")}},
])  # fmt: skip
CLAUDE = _json([
    {"uuid": "1", "name": "Knots", "created_at": "2024-05-06T07:08:09.123456Z", "account": {"uuid": "2"},
     "chat_messages": [
         {"uuid": "3", "text": "Which knot?", "sender": "human", "content": [{"type": "text", "text": "Which knot?"}]},
         {"uuid": "4", "text": "", "sender": "assistant",
          "content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "A bowline."}]},
     ]},
])  # fmt: skip

OPENAI = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n' * 2
SHAREGPT = _json([
    {"id": "1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"id": "2", "system": "Be brief.", "conversations": [{"from": "human", "value": "And?"},
                                                              {"from": "gpt", "value": "Yes"}]},
])  # fmt: skip
ALPACA = _json([
    {"instruction": "Translate.", "input": "Brot", "output": "bread"},
    {"instruction": "Say yes.", "input": "", "output": "Yes."},
])  # fmt: skip

MBOX = b"""From 1234@xxx Mon Jan 01 10:00:00 +0000 2024
From: Anna Lee <anna@example.org>
To: Ben Okoro <ben@example.org>
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Date: Mon, 01 Jan 2024 10:00:00 +0000
Message-ID: <1@example.org>
Content-Type: text/plain; charset=utf-8

How is the boat?

>From the pier it looked well.

--{space}
Anna Lee
Harbour Office

From 1235@xxx Tue Jan 02 10:00:00 +0000 2024
From: Ben Okoro <ben@example.org>
To: Anna Lee <anna@example.org>
Subject: Re: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Date: Tue, 02 Jan 2024 10:00:00 +0100
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="b1"

--b1
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Sch=F6n, dry and painted.

On Mon, Jan 1, 2024 at 10:00 AM Anna Lee
<anna@example.org> wrote:

> How is the boat?

--b1
Content-Type: text/html; charset=utf-8

<p>Not this one</p>
--b1--

From 1236@xxx Wed Jan 03 10:00:00 +0000 2024
From: Carl <carl@example.org>
To: ben@example.org
Subject: Paint
Date: Wed, 03 Jan 2024 10:00:00 +0000
Content-Type: text/html; charset=utf-8

<html><body><p>Blue, please.</p>
<div class="gmail_quote">On Tue Ben wrote: <blockquote>Which?</blockquote></div></body></html>

From 1237@xxx Wed Jan 03 11:00:00 +0000 2024
From: robot@example.org
To: ben@example.org
Subject: Out of office
Auto-Submitted: auto-replied
Date: Wed, 03 Jan 2024 11:00:00 +0000

I am away.
""".replace(b"{space}", b" ")
EML = MBOX[MBOX.index(b"From: Ben") : MBOX.index(b"From 1236@")]

DOCX = _zip({
    "[Content_Types].xml": "<Types/>",
    "word/document.xml": '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/'
    '2006/main"><w:body><w:p><w:r><w:t>The </w:t></w:r><w:r><w:t>report</w:t></w:r></w:p>'
    "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>first</w:t></w:r></w:p>"
    "<w:p><w:del><w:r><w:t>gone</w:t></w:r></w:del><w:r><w:t>kept</w:t></w:r></w:p>"
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr>"
    "</w:tbl></w:body></w:document>",
})  # fmt: skip
EPUB = _zip({
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
    "OEBPS/content.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    "<metadata><dc:title>The Lamp</dc:title></metadata><manifest>"
    '<item id="two" href="two%20b.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="one" href="one.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="css" href="a.css" media-type="text/css"/></manifest>'
    '<spine><itemref idref="one"/><itemref idref="two"/></spine></package>',
    "OEBPS/one.xhtml": "<html><head><title>x</title></head><body><h1>One</h1><p>It was lit.</p></body></html>",
    "OEBPS/two b.xhtml": "<html><body><h1>Two</h1><p>It went out.</p></body></html>",
    "OEBPS/a.css": "p {}",
})  # fmt: skip
PDF = _pdf(["The keeper wrote every day,", "and the sea did not answer.", "He went on."])

ZIP = _zip({"notes/a.txt": "Inside.", "notes/.hidden": "no", "__MACOSX/notes/._a.txt": "no", "chat.json": TELEGRAM})

# The reader's name in reports -> (file name, content); kinds with several forms have several.
SAMPLES: dict[str, list[tuple[str, bytes]]] = {
    "text": [("a.txt", TEXT)],
    "markdown": [("boat.md", OBSIDIAN), ("Reading list aaaabbbbccccddddeeeeffff00001111.md", NOTION)],
    "org": [("garden.org", ORG)],
    "html": [("bread.html", HTML)],
    "code": [("tide.py", CODE)],
    "table": [("rows.csv", CSV), ("days.tsv", TSV)],
    "whatsapp": [("WhatsApp Chat with Anna Lee.txt", WHATSAPP_ANDROID), ("_chat.txt", WHATSAPP_IPHONE)],
    "telegram": [("result.json", TELEGRAM), ("account.json", TELEGRAM_ACCOUNT)],
    "signal": [("main.jsonl", SIGNAL_LINES), ("data.json", SIGNAL_EXPORT)],
    "discord": [("anna.json", DISCORD), ("messages.json", DISCORD_PACKAGE)],
    "slack": [("2024-03-21.json", SLACK_DAY)],
    "chatgpt": [("conversations.json", CHATGPT)],
    "claude": [("claude.json", CLAUDE)],
    "jsonl": [("train.jsonl", OPENAI)],
    "json": [("sharegpt.json", SHAREGPT), ("alpaca.json", ALPACA)],
    "mail": [("All mail.mbox", MBOX), ("one.eml", EML)],
    "docx": [("report.docx", DOCX)],
    "epub": [("lamp.epub", EPUB)],
    "pdf": [("keeper.pdf", PDF)],
}
