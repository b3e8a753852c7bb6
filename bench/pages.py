"""Pages of docs/ whose parts are made by different programs."""

from __future__ import annotations

from pathlib import Path


def write_section(page: Path, maker: str, text: str) -> None:
    """Puts ``text`` where the page has the part of this maker, or at its end. The rest of the page stays."""
    opening, closing = f"<!-- made by {maker} -->\n", f"<!-- end of {maker} -->\n"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    section = f"{opening}{text.strip()}\n{closing}"
    before, found, rest = old.partition(opening)
    if found:
        after = rest.partition(closing)[2]
        new = before + section + after
    else:
        new = f"{old.rstrip()}\n\n{section}".lstrip()
    page.write_text(new, encoding="utf-8")
