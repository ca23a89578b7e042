"""Licenses as Hugging Face names them, and what is known of those that limit commercial use."""

from __future__ import annotations

import re
from collections.abc import Iterable

from imagemill.errors import UsageError, did_you_mean

_IDS = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
unlicense wtfpl zlib
"""
IDS = frozenset(_IDS.split())
"""Those that a dataset card can name (https://huggingface.co/docs/hub/repositories-licenses)."""

_NON_COMMERCIAL = re.compile(
    r"cc-by-nc\b.*|.*non-?commercial.*|(sai|stabilityai)-nc-.*|deepfloyd-if-license|apple-amlr|intel-research|h-research"
)
_LIMITED = re.compile(r"stabilityai-(ai-)?community.*|llama.*|grok2-community|gemma|.*-community(-license)?")


_FREE = {"cc0-1.0", "pddl", "unlicense", "wtfpl"}
"""Those that ask for nothing."""
_AND = " and "


def combined(names: Iterable[str]) -> str:
    """What holds for something made of parts with these licenses: one of them, all of them, or `unknown`.

    Several become `cc-by-4.0 and mit`; those that ask for nothing are told only where there is no other.
    """
    found = list(dict.fromkeys(each for name in names for each in name.split(_AND)))
    if "unknown" in found or not found:
        return "unknown"
    asking = [name for name in found if name not in _FREE]
    return _AND.join(asking) or found[0]


def is_non_commercial(license_name: str) -> bool:
    """Whether a license, or one of several, is known to rule out commercial use."""
    return any(map(_NON_COMMERCIAL.fullmatch, license_name.lower().split(_AND)))


def is_limited(license_name: str) -> bool:
    """Whether a license is known to allow commercial use only on conditions."""
    found = any(map(_LIMITED.fullmatch, license_name.lower().split(_AND)))
    return found and not is_non_commercial(license_name)


def check_license(name: str, link: str = "") -> None:
    """Raise UsageError for a license that a card cannot name, and that no link leads to."""
    if link and not re.fullmatch(r"https?://[^\s\"<>]+", link):
        raise UsageError(f"export: `license_link`: no address of a page, got: `{link}`", "begin it with https://")
    if link and (not name or name in IDS - {"other"}):
        raise UsageError("export: `license_link` is for a license without an id of its own", "leave it out")
    if name == "unknown" or (name == "other" and not link) or (name and name not in IDS and not link):
        raise UsageError(
            f"export: `license`: Hugging Face knows no license `{name}`"
            if name not in IDS
            else f"export: `license`: `{name}` says nothing",
            did_you_mean(name, IDS - {"other", "unknown"})
            or "give its id, such as cc-by-4.0, or any name together with `license_link`",
        )
