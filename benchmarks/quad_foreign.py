"""Text in another language: translated manual pages of Debian, rendered by groff and cut into parts.

They are not shipped. On Debian and Ubuntu: `apt-get download manpages-de && dpkg-deb -x manpages-de_*.deb pages`, then
`--foreign pages` (or `manpages-fr`, or any folder with man1/*.gz to man8/*.gz below it).
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.results_corpus import SHORTEST, cut
from quadmix.hashing import doc_hash, fingerprint, uniform
from quadmix.manifest.durable import write_atomically

LONGEST = 2_500  # characters of a part: about the pool's mean document
# lines are never filled to a width, so that paragraphs are one line each, as in the pool
_RENDER = ("groff", "-man", "-t", "-K", "utf8", "-T", "utf8", "-P-c", "-P-b", "-P-u", "-rLL=10000n")
_HOW = (
    "get them with `apt-get download manpages-de && dpkg-deb -x manpages-de_*.deb pages` and give `--foreign pages`, "
    "or install the package"
)


def foreign_texts(pages: Path, wanted: int, cache: Path) -> list[str]:
    """At least `wanted` parts of pages, in an order by the draws of their files' names; kept in `cache`.

    SystemExit that names the package where there are no pages or too few of them.
    """
    files = {f"{path.parent.name}/{path.name}": path for path in sorted(pages.rglob("man[1-8]/*.gz"))}
    if not files:
        raise SystemExit(f"--foreign {pages}: found no manual pages (man1/*.gz to man8/*.gz); {_HOW}")
    if shutil.which(_RENDER[0]) is None:
        raise SystemExit("groff renders the manual pages and was not found; get it with `apt-get install groff`")
    names = list(files)
    known = cache / f"foreign-{fingerprint(str(wanted), *names)}.json"
    if not known.is_file():
        parts: list[str] = []
        for index in np.argsort(uniform(doc_hash(names), 0, "foreign"), kind="stable").tolist():
            parts += [part for part in cut(_rendered(files[names[index]]), LONGEST) if len(part) >= SHORTEST]
            if len(parts) >= wanted:
                break
        write_atomically(known, json.dumps(parts, ensure_ascii=False).encode("utf-8"))
    found: list[str] = json.loads(known.read_bytes())
    if len(found) < wanted:
        raise SystemExit(f"--foreign {pages}: {len(files)} pages give {len(found)} parts, wanted {wanted}; {_HOW}")
    return found


def _rendered(page: Path) -> str:
    """Its text; pages that only point to another one come out empty."""
    raw = gzip.decompress(page.read_bytes())
    if raw.startswith(b".so "):
        return ""
    shown = subprocess.run(_RENDER, input=raw, capture_output=True, check=True).stdout.decode("utf-8", "replace")
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in shown.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
