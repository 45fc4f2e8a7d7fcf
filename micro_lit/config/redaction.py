"""Redaction: replaces secrets in texts.

Everything that leaves the machine or is written to a run folder goes through `redact`. A secret is recognised by the
name of its setting, environment variable or URL parameter, and by known formats of keys. A bare hexadecimal number is
not treated as a secret: digests, revisions and seeds look the same.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from micro_lit.host.files import write_text

HIDDEN = "***"
SHORTEST = 8  # minimum length of a secret in the environment, or of a word after a colon: `true` is no secret

SECRET = (
    r"(?:(?:api|access|private)?key|token|password|passwd|passphrase|secret|credential|signature|authorization|auth)s?"
)
SECRET_NAME = re.compile(rf"(?<![a-z]){SECRET}(?![a-z])", re.IGNORECASE)
# name=value, name:value, "name": value, as in overrides, commands, YAML, JSON and headers.
ASSIGNED = re.compile(r"(?<![\w.@/-])([\w.@/-]++)([\"']?\s*[=:]\s*)")
VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|(?:bearer|basic|token)\s+[^\s,;\"']+|[^\s,;&\"'(){}\[\]]+", re.IGNORECASE)
PLAIN = re.compile(r"[-+.\d]*|\*{3}|true|false|null|none", re.IGNORECASE)  # values that are not secrets
FORMS = (
    (re.compile(r"(://)[^/?#\s\"']+(?=@)"), rf"\1{HIDDEN}"),  # user:password@ in a URL
    (re.compile(rf"([?&;#](?:[\w-]*(?<![a-z]))?(?:{SECRET}|sig)=)[^&;#\s\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL), HIDDEN),
    (
        re.compile(
            r"\b(?:hf_[A-Za-z0-9]{30,}|sk-(?=[\w-]*\d)[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"
            r"|glpat-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35}|wandb_v1_\w{20,}"
            r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
        ),
        HIDDEN,
    ),
)


def redact(node: Any) -> Any:
    """Replaces every part of a text that may be a secret by ***, also in nested mappings and lists.

    Args:
        node: for example settings; anything but texts, mappings, lists and tuples is returned unchanged.

    Returns:
        The same structure. Redacting it again changes nothing.
    """
    return _redact(node, False, _of_environment())


def redact_yaml(path: Path) -> None:
    """Redacts a YAML file in place, atomically; a file without secrets is not touched. Raises `OSError`."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if (hidden := redact(content)) != content:
        write_text(path, yaml.safe_dump(hidden, sort_keys=False))


def hidden_in(settings: Mapping[str, Any]) -> list[str]:
    """Dotted keys of settings with a redacted part; no object can be built from them."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += [f"{name}.{inner}" for inner in hidden_in(value)]
        elif HIDDEN in str(value):
            found.append(str(name))
    return found


def _redact(node: Any, named_so: bool, known: list[str]) -> Any:
    if isinstance(node, Mapping):
        found: dict[Any, Any] = {}
        for name, child in node.items():
            key = _without(name, known) if isinstance(name, str) else name
            while key in found:  # keep names apart that differ only in their secrets
                key += "*"
            found[key] = _redact(child, named_so or _says_secret(str(name)), known)
        return found
    if isinstance(node, list | tuple):
        return type(node)([_redact(child, named_so, known) for child in node])
    if not isinstance(node, str) or not node:
        return node
    return HIDDEN if named_so else _without(node, known)


def _without(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, HIDDEN)
    for form, instead in FORMS:
        text = form.sub(instead, text)
    parts, end = [], 0
    assigns = "=" in text or ":" in text  # skips the search in long texts without either
    while assigns and (match := ASSIGNED.search(text, end)):
        parts.append(text[end : match.end()])
        end = match.end()
        if _says_secret(match[1]) and (value := VALUE.match(text, end)) and _may_be_secret(match[2], value[0]):
            quote = value[0][0] if value[0][0] in "\"'" else ""
            parts.append(f"{quote}{HIDDEN}{quote}")
            end = value.end()
    return "".join([*parts, text[end:]])


def _may_be_secret(sign: str, value: str) -> bool:
    """Whether the text after the name of a secret is one, rather than a number or a word of a sentence."""
    if PLAIN.fullmatch(value.strip("\"'")):
        return False
    in_words = sign.strip() != sign and sign[0] not in "\"'" and value[0] not in "\"'" and " " not in value
    return not in_words or (len(value) >= SHORTEST and any(map(str.isdigit, value)))


def _of_environment() -> list[str]:
    """Values of environment variables with a name of secrets, longest first; existing paths are excluded."""
    named = {value for name, value in os.environ.items() if len(value) >= SHORTEST and _says_secret(name)}
    return sorted((value for value in named if not (os.path.isabs(value) and os.path.exists(value))), key=len)[::-1]


def _says_secret(name: str) -> bool:
    return bool(SECRET_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)))
