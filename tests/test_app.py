"""What is refused or said at start, before anything listens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_store_that_cannot_be_opened_is_one_clear_line_and_nothing_listens(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(0o777)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "router.cli",
            "serve",
            "--text",
            "http://127.0.0.1:1/v1",
            "--vision",
            "http://127.0.0.1:1/v1",
        ],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CHIASM_STORE__PATH": str(folder),
            "CHIASM_SERVER__PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert "[store]" in run.stderr
    assert "Traceback" not in run.stderr
