"""Which characters the reason for an act may have, wherever people write it."""

from __future__ import annotations

import re

LONGEST = 500
# Control characters and those that turn the direction of text hide what was written. Joiners are letters' and
# emoji's business; one visible character at least.
_HIDING = r"\x00-\x08\x0B-\x1F\x7F-\x9F\u200B\u200E\u200F\u2028-\u202E\u2060-\u206F\uFEFF\uFFF9-\uFFFF"
_VISIBLE = rf"[^{_HIDING}\u200C\u200D\s]"
PATTERN = rf"^[^{_HIDING}]*{_VISIBLE}[^{_HIDING}]*$"
IN_WORDS = (
    "say why, in 1 to 500 characters that can be seen; control characters and those that turn the direction "
    "of text are not taken"
)


def cleaned(text: object) -> str:
    """What can be read of words that nobody checked when they were written; empty if nothing can."""
    said = re.sub(f"[{_HIDING}]", "", str(text or ""))[:LONGEST]
    return said if re.search(_VISIBLE, said) else ""
