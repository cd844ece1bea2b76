"""The corpus of the results page as a pool and targets: whole sources are held out, long documents are cut.

Input is what the corpus' build script writes: one JSONL file a source, rows of {id, source, domain, text}. Three
sources become targets, with every document they have: the pool holds nothing of their kind of page. What the pool and
a target still share word for word, the leakage guard of `annotate` leaves out.

A document of more than 8,000 characters is cut at ends of lines into parts: the corpus has documents of 700,000
tokens, more than a target model reads in all, and a mixture that cannot fill a domain's quota from whole documents
would not be the mixture that was asked for. Texts that stand in the pool already (the corpus has thousands) are left
out, and so is what is shorter than 200 characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from quadmix.hashing import doc_hash, fingerprint, uniform
from quadmix.manifest.durable import write_atomically

TARGETS = {"encyclopedia": "wikipedia", "howto": "libreoffice-help", "manual": "postgresql-doc"}  # target: its source
LONGEST, SHORTEST = 8_000, 200  # characters
FACTS_FILE = "corpus.json"


@dataclass(frozen=True)
class Prepared:
    """Where pool and targets are; facts: documents and bytes of the pool by source and of the targets."""

    folder: Path
    facts: dict[str, dict[str, dict[str, int]]]

    @property
    def pool(self) -> Path:
        return self.folder / "pool"

    def target(self, name: str) -> Path:
        return self.folder / "targets" / f"{name}.jsonl"


def prepare_corpus(corpus: Path, folder: Path, share: float) -> Prepared:
    """Write pool and targets into `folder`, or find them there. share: of the corpus' documents (by hash of their ids)
    that the pool is made from; targets are always whole. SystemExit where the corpus is not what is described above.
    """
    files = sorted(corpus.glob("*.jsonl"))
    missing = sorted(set(TARGETS.values()) - {file.stem for file in files})
    if missing or len(files) <= len(TARGETS):
        raise SystemExit(f"--corpus {corpus}: found {len(files)} sources, without {', '.join(missing) or 'a pool'}")
    identity = fingerprint(repr(share), *(f"{file.name} {file.stat().st_size}" for file in files))
    done = folder / FACTS_FILE
    if done.is_file() and (known := json.loads(done.read_bytes()))["identity"] == identity:
        return Prepared(folder, known["facts"])
    facts: dict[str, dict[str, dict[str, int]]] = {"pool": {}, "targets": {}}
    names = {source: target for target, source in TARGETS.items()}
    for kind in ("pool", "targets"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    seen: set[int] = set()
    for file in files:
        target = names.get(file.stem)
        kind, name = ("targets", target) if target else ("pool", file.stem)
        rows = list(_documents(file, 1.0 if target else share, seen))
        if rows:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
            write_atomically(folder / kind / f"{name}.jsonl", text)
            size = sum(len(row["text"].encode("utf-8")) for row in rows)
            facts[kind][name] = {"documents": len(rows), "bytes": size}
    write_atomically(done, json.dumps({"identity": identity, "facts": facts}).encode("utf-8"))
    return Prepared(folder, facts)


def _documents(file: Path, share: float, seen: set[int]) -> Iterator[dict[str, str]]:
    with open(file, "rb") as lines:  # only b"\n" ends a row: texts hold other line separators
        for line in lines:
            row = json.loads(line)
            if share < 1.0 and float(uniform(doc_hash([row["id"]]), 0, "results-corpus")[0]) >= share:
                continue
            for number, part in enumerate(cut(row["text"])):
                key = xxhash.xxh3_64_intdigest(part.encode("utf-8"))
                if len(part) >= SHORTEST and key not in seen:
                    seen.add(key)
                    yield {"id": f"{row['id']}#{number}", "domain": row["domain"], "text": part}


def cut(text: str, longest: int = LONGEST) -> list[str]:
    """Parts of at most `longest` characters that give the text again when joined; cut after the last line end of the
    second half, else after its last space, else at the limit."""
    parts, start = [], 0
    while len(text) - start > longest:
        stop = start + longest
        for mark in ("\n", " "):
            place = text.rfind(mark, start + longest // 2, stop)
            if place >= 0:
                stop = place + 1
                break
        parts.append(text[start:stop])
        start = stop
    return [*parts, text[start:]]
