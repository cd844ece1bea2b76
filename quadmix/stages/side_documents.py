"""Documents from beside the pool: target sets, positives, labelled examples. Small, so read here, and read strictly.

A row that cannot be used stops the run: unlike a pool's, these rows are few and each of them counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quadmix.config import PoolConfig
from quadmix.errors import InputError
from quadmix.hashing import doc_hash
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.readers import read_unit
from quadmix.scorers.context import Document

_SHOWN = 10


def read_documents(config: PoolConfig, columns: Sequence[str], what: str) -> list[Document]:
    """All documents of some files, ordered by document hash. `what` names them in errors.

    Raises InputError for refused files and unusable rows, ConfigError for what `find_inputs` refuses.
    """
    files = find_inputs(config, columns).accepted(skip_bad_files=False)
    documents: list[Document] = []
    faults: list[str] = []
    for unit in plan_units(files, config.unit_bytes):
        for batch in read_unit(unit, config, tuple(columns)):
            rows = batch.to_pydict()
            domains = rows.get("domain", [None] * batch.num_rows)
            extras = [rows[name] for name in columns]
            for index, reason in enumerate(rows["reason"]):
                if reason is not None:
                    detail = rows["detail"][index]
                    faults.append(
                        f"  {rows['shard'][index]} row {rows['row'][index]}: {reason}"
                        + (f": {detail}" if detail else "")
                    )
                    continue
                values = {name: extra[index] for name, extra in zip(columns, extras, strict=True)}
                documents.append(Document(rows["doc_id"][index], rows["text"][index], domains[index], values))
    if faults:
        more = [f"  … and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise InputError(
            "\n".join([f"{what}: {len(faults)} row(s) cannot be used, wanted none:", *faults[:_SHOWN], *more])
            + "\nrepair or remove them and run again"
        )
    if not documents:
        raise InputError(f"{what}: found no documents in {', '.join(config.inputs)}")
    order = np.argsort(doc_hash(document.id for document in documents), kind="stable")
    return [documents[index] for index in order.tolist()]
