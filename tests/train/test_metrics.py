import json
import subprocess
import sys

from dsv4.train.metrics import Metrics

FULL = """
import resource, sys
from pathlib import Path
from dsv4.train.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]), 10)
size = metrics.file.stat().st_size
for room in range(4):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    try:
        metrics.append({"step": 2})
    except OSError as error:
        print(error)
"""


def rows(file):
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_rows_after_the_state_and_torn_lines_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"step": step}) + "\n" for step in range(1, 6))
    for text in (whole, whole + '{"step": 6', whole + "\x00\x00", '{"st\n[1]\nnull\n' + whole):
        file.write_text(text)
        Metrics(file, 3).append({"step": 4})
        assert rows(file) == [1, 2, 3, 4]
    Metrics(file, 0)
    assert rows(file) == []
    file.unlink()
    Metrics(file, 0).append({"step": 1})
    assert rows(file) == [1]


def test_a_full_disk_leaves_no_half_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n')
    done = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True)
    said = f"{file} could not be written (File too large); what was there before is kept"
    assert done.stdout.splitlines() == [said] * 4, done.stderr
    assert file.read_text() == '{"step": 1}\n'
