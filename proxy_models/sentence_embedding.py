"""A sentence-transformers model from a local folder, for the embedder of that name."""

from __future__ import annotations

from typing import Any

import torch


def load_sentence_model(path: str) -> Any:
    """The model, on the GPU where there is one. Nothing is downloaded and no code of the folder is run.

    Raises ModuleNotFoundError without sentence-transformers.
    """
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SentenceTransformer(path, device=device, trust_remote_code=False, local_files_only=True)
