"""Events of the log in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.dataset.edits.state import Line

_ABOUT = {"undo": "undid", "redo": "did again"}


def told(line: Line) -> str:
    """What an event was, such as `rejected 12 images`."""
    count = line.get("count", 0)
    images = f"{count:,} image{'' if count == 1 else 's'}"
    match line["event"]:
        case "undo" | "redo" as event:
            return f"{_ABOUT[event]}: {line.get('what', '')}"
        case "discard":
            return f"discarded the edits of {images}"
        case "applying":
            return f"began to apply the edits of {images}"
        case "applied":
            return f"applied the edits of {images}"
        case "withdrawn":
            return f"took what was applied to {images} back"
        case "adopt":
            return f"took over what was decided of {images}"
        case "texts":
            return f"edited `{line['column']}` of {images}"
    return ", ".join(_changes(line, images))


def _changes(line: Line, images: str) -> list[str]:
    texts: dict[str, Any] = line.get("texts", {})
    edited = [f"`{name}`" for name, text in texts.items() if text is not None]
    restored = [f"`{name}`" for name, text in texts.items() if text is None]
    found = [f"edited {' and '.join(edited)} of {images}"] if edited else []
    found += [f"took the edit of {' and '.join(restored)} of {images} back"] if restored else []
    if "decision" in line:
        verbs = {"keep": "kept {}", "reject": "rejected {}", "": "took the decision on {} back"}
        found.append(verbs[line["decision"]].format(images))
    if "rating" in line:
        rating = line["rating"]
        found.append(f"rated {images} {rating}" if rating else f"took the rating of {images} back")
    if tags := line.get("add_tags"):
        found.append(f"tagged {images} {', '.join(tags)}")
    if tags := line.get("remove_tags"):
        found.append(f"took the tag{'' if len(tags) == 1 else 's'} {', '.join(tags)} off {images}")
    return found
