"""Nothing that is a secret is in what git keeps, as gitleaks would look for it."""

from __future__ import annotations

import math
import re
import subprocess
from collections import Counter

import pytest

from model_store.installation import ROOT

# What issuers mark as theirs, and private keys. Source: gitleaks' default rules.
MARKED = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----",
    "AWS": r"\b(AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
    "GitHub": r"\b(gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{82})\b",
    "GitLab": r"\bglpat-[\w-]{20}\b",
    "Slack": r"\bxox[abpors]-[0-9A-Za-z-]{10,}\b|hooks\.slack\.com/services/T\w{8,}/B\w{8,}/\w{24}",
    "Google": r"\bAIza[\w-]{35}\b",
    "Stripe": r"\b[rs]k_live_[0-9A-Za-z]{20,}\b",
    "PyPI": r"\bpypi-AgEIcHlwaS5vcmc[\w-]{50,}",
    "Hugging Face": r"\bhf_[A-Za-z]{34}\b",
    "JSON web token": r"\bey[A-Za-z0-9_-]{17,}\.ey[A-Za-z0-9_/-]{17,}\.[A-Za-z0-9_/-]{10,}",
}
# And what is written down as one, with the randomness of one.
SAID = re.compile(
    r"""(?i)\b[\w-]*(secret|password|passwd|token|api_?key)[\w-]*["']?\s*[:=]\s*["']([A-Za-z0-9+/_=-]{20,})["']"""
)
RANDOM_BITS = 3.7
# Hashes of packages are no secrets, and there are ten thousand of them.
NOT_READ = re.compile(r"requirements[\w-]*\.txt$|\.(png|svg|csv|svgz|woff2?|onnx|npz|parquet)$")


def entropy(word: str) -> float:
    """Bits for each character."""
    return -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values())


def leaks(text: str) -> list[str]:
    found = [name for name, pattern in MARKED.items() if re.search(pattern, text)]
    said = (match.group(2) for match in SAID.finditer(text))
    return found + [
        f"{word[:6]}..." for word in said if entropy(word) > RANDOM_BITS and re.search(r"\d", word)
    ]


def test_no_file_that_git_keeps_has_a_secret_in_it() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        if NOT_READ.search(name) or not (ROOT / name).is_file():
            continue
        if leaked := leaks((ROOT / name).read_text(errors="replace")):
            found[name] = leaked
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "aws = " + "AKIA" + "QYLPMN5HHHFPZAM2",
        "token: '" + "ghp_" + "a1" * 18 + "'",
        "password = " + '"' + "Zk3xq9LmT2vB7nR4cW8d" + '"',
    ],
)
def test_what_is_one_is_found(text: str) -> None:
    assert leaks(text)


def test_what_is_none_is_let_be() -> None:
    assert leaks('token = "the_name_of_a_variable"\npassword_field = "controller-token-of-the-home"') == []
