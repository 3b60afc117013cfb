"""The envelope of every Envoy resource file.

Files are JSON, so a bundle id like `12e4567` stays a string (in YAML it would become a number).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

Message = dict[str, Any]

_VERSION_DIGITS = 16


def typed(name: str, /, **fields: Any) -> Message:
    """A protobuf Any: the message type's full name and its fields."""
    return {"@type": f"type.googleapis.com/{name}", **fields}


def extension(name: str, config: Message) -> Message:
    """A named extension with its typed configuration."""
    return {"name": name, "typed_config": config}


def named_extension(name: str, config: Message) -> Message:
    """The resource of a file that a `discovered_filter` reads."""
    return typed("envoy.config.core.v3.TypedExtensionConfig", name=name, typed_config=config)


def discovered_filter(name: str, source: Message, config: str, *, disabled: bool = False) -> Message:
    """A filter of the listener whose configuration, of type `config`, Envoy is told by `source`.

    `disabled`: only routes that configure it have it.
    """
    found = {"config_source": source, "type_urls": [f"type.googleapis.com/{config}"]}
    return {"name": name, "config_discovery": found, **({"disabled": True} if disabled else {})}


def watched(path: Path) -> Message:
    """A config source: Envoy reads `path` now and after each rename onto it."""
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def discovery(resources: Iterable[Message], *, version: int | str | None = None) -> bytes:
    """The bytes of a resource file, always the same for the same resources. `version` is made of them if it
    is not given."""
    found = list(resources)
    response = {"version_info": str(version_of(found) if version is None else version), "resources": found}
    return orjson.dumps(response, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def version_of(content: object) -> str:
    """Of resources, or whatever else JSON can say: the same for the same content, wherever it is made."""
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:_VERSION_DIGITS]


def seconds(value: float) -> str:
    """A protobuf Duration."""
    return f"{value:.3f}s"
