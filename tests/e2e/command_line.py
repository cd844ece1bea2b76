"""Commands as a user types them: in this process, or in one of their own where that is the point."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from quadmix.cli import main
from tests.e2e.small_pool import ROOT


@dataclass(frozen=True)
class Done:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.err.rstrip().rsplit("\n", 1)[-1]

    @property
    def json(self) -> Any:
        """The one JSON value on standard output; fails when there is anything else."""
        return json.loads(self.out)


def quadmix(*words: object) -> Done:
    """`quadmix WORDS…` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def start(*words: object, before: str = "") -> subprocess.Popen[str]:
    """`quadmix WORDS…` in a process of its own; `before` is Python that runs first in it."""
    script = (
        f"{before}\nimport sys\nfrom quadmix.cli import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)
