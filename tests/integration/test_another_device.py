"""What a run does on a GPU, on a machine that has none; see ``tests/another_device.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "another_device.py"


def test_a_model_on_another_device_is_that_of_the_cpu(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == [["cpu", "cpu"], ["meta", "meta"]]
    assert max(found["apart"].values()) < 1e-3, found["apart"]
