"""`export --push` commits the folder to a Hub, and says why where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from refine_dagster.home import Home
from tests.publishing.hub import Hub, hub_on_loopback


def push(home: Home, hub: Hub, *options: str) -> subprocess.CompletedProcess[str]:
    """Export and push in a process of its own: the Hub's address is read when it starts."""
    command = [sys.executable, "-m", "refine_dagster.cli", "export", "--push", "me/data"]
    environment = {
        **os.environ,
        "REFINE_HOME": str(home.root),
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=environment
    )


def test_every_file_is_committed_and_a_refusal_is_said(small_home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with hub_on_loopback() as hub:
        done = push(small_home, hub, "--to", str(folder), "--format", "messages")
        assert done.returncode == 0, done.stderr
        assert f"pushed to {hub.address}/datasets/me/data" in done.stdout
        (created,) = hub.created
        assert (created["type"], created["visibility"]) == ("dataset", "private")
        assert hub.tokens == {"Bearer hf_secret"}
        there = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        assert hub.files == {"me/data": there}
        assert "2 rows" in hub.messages[0]
        hub.refusing = True
        refused = push(small_home, hub, "--to", str(tmp_path / "other"))
    assert refused.returncode == 1
    assert "the Hub did not take it" in refused.stderr
    assert "hf_secret" not in refused.stderr
    assert (tmp_path / "other" / "verify.py").is_file()
