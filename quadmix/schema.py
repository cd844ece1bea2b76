"""Names of columns, statuses and reasons: the one place where data on disk is spelled.

Layout as in the architecture: annotations carry one row per input row in input order; quarantined rows stay,
with a reason in `status`; the manifest's parts carry one row per selected document.
"""

from __future__ import annotations

from enum import StrEnum

SCHEMA_VERSION = 1
OK = "ok"

# annotation columns, in order; after them one float32 column `score_<criterion>` per scorer output
DOC_ID = "doc_id"
DOC_HASH = "doc_hash"
CONTENT_HASH = "content_hash"
SHARD = "shard"
ROW = "row"
N_TOKENS = "n_tokens"
N_BYTES = "n_bytes"
DOMAIN = "domain"
CLUSTER = "cluster"
STATUS = "status"
SCORE_PREFIX = "score_"

# manifest columns beside doc_id, shard, row, domain, n_tokens
COPIES = "copies"
KEY = "key"
DRAW = "draw"
SELECTOR = "selector"
STRATUM = "stratum"
EXPECTED_COPIES = "expected_copies"
QUALITY_RANK = "quality_rank"

MANIFEST_COLUMNS = (DOC_ID, SHARD, ROW, DOMAIN, N_TOKENS, COPIES, KEY, DRAW, SELECTOR, STRATUM)
QUADMIX_COLUMNS = (EXPECTED_COPIES, QUALITY_RANK)


def score_column(criterion: str) -> str:
    """Annotation column of a criterion."""
    return SCORE_PREFIX + criterion


class RowReason(StrEnum):
    """Why a row was quarantined (reliability.md, catalogue)."""

    NULL_ID = "NULL_ID"
    ID_TOO_LONG = "ID_TOO_LONG"
    DUP_ID_SAME = "DUP_ID_SAME"
    DUP_ID_CONFLICT = "DUP_ID_CONFLICT"
    NULL_TEXT = "NULL_TEXT"
    EMPTY_TEXT = "EMPTY_TEXT"
    ZERO_TOKENS = "ZERO_TOKENS"
    BAD_UTF8 = "BAD_UTF8"
    DOC_TOO_LARGE = "DOC_TOO_LARGE"
    BAD_JSON = "BAD_JSON"
    TRAILING_DATA = "TRAILING_DATA"
    NOT_OBJECT = "NOT_OBJECT"
    TYPE = "TYPE"
    NAN_SCORE = "NAN_SCORE"
    INF_SCORE = "INF_SCORE"
    NULL_SCORE = "NULL_SCORE"
    SCORE_RANGE = "SCORE_RANGE"
    NEG_TOKENS = "NEG_TOKENS"
    BAD_TOKENS = "BAD_TOKENS"
    NULL_DOMAIN = "NULL_DOMAIN"
    NULL_CLUSTER = "NULL_CLUSTER"
    CLUSTER_INVALID = "CLUSTER_INVALID"
    DOMAIN_INVALID = "DOMAIN_INVALID"
    UNKNOWN_DOMAIN = "UNKNOWN_DOMAIN"
    TARGET_LEAK = "TARGET_LEAK"
    HASH_COLLISION = "HASH_COLLISION"


class FileReason(StrEnum):
    """Why a whole file was refused (reliability.md, catalogue)."""

    EMPTY_FILE = "EMPTY_FILE"
    TRUNCATED_PARQUET = "TRUNCATED_PARQUET"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    NOT_PARQUET = "NOT_PARQUET"
    UNEXPECTED_EXTENSION = "UNEXPECTED_EXTENSION"
    NESTED_DIR = "NESTED_DIR"
    CHANGED_DURING_RUN = "CHANGED_DURING_RUN"
    PERMISSION = "PERMISSION"
    TRUNCATED_GZIP = "TRUNCATED_GZIP"
    BAD_GZIP = "BAD_GZIP"
    TRUNCATED_ZSTD = "TRUNCATED_ZSTD"
    BAD_ZSTD = "BAD_ZSTD"
    MISSING_COLUMN = "MISSING_COLUMN"
    TYPE_DRIFT = "TYPE_DRIFT"
    SYMLINK = "SYMLINK"
