"""``embedserve eval`` as a person runs it, and the mteb wrapper, on the bundled model."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from embedserve.errors import EmbedserveError
from embedserve.evaluation.mteb import MtebModel
from embedserve.evaluation.report import Run
from embedserve.evaluation.suites import load_task


def test_eval_measures_and_compares(suite, tmp_path):
    command = [sys.executable, "-m", "embedserve", "eval"]
    first = [*command, str(suite), "--dimensions", "64,512", "--bm25", "-o", str(tmp_path / "one")]
    done = subprocess.run(first, capture_output=True, text=True, timeout=280)
    if "pip install 'embedserve[eval]'" in done.stderr:
        assert Run.load(tmp_path / "one.json").tasks  # the scores are there; only the picture is missing
    else:
        assert done.returncode == 0, done.stderr
    run = Run.load(tmp_path / "one.json")
    assert run.tasks["ret_small"]["dense@512"].score > 90
    compare = [*command, str(tmp_path / "one.json"), "--baseline", str(tmp_path / "one.json")]
    done = subprocess.run(compare, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "+0.0" in done.stdout


def test_eval_names_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "embedserve", "eval", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "holds no tasks" in done.stderr


def test_the_mteb_wrapper_takes_lists_and_batches():
    model = MtebModel(dimension=128)
    plain = model.encode(["what causes tides", ""], task_name="x", prompt_type="query")
    assert plain.shape == (2, 128)
    batched = model.encode([{"text": ["what causes tides"]}, {"text": [" "]}], prompt_type="query")
    assert np.array_equal(plain, batched)
    documents = model.encode(["The moon moves the tides."], prompt_type="document")
    assert model.similarity(plain, documents).shape == (2, 1)
    assert model.similarity_pairwise(plain, plain) == pytest.approx([1, 1], abs=1e-5)


def test_a_suite_in_other_formats_and_a_wrong_line_is_named(suite):
    folder = suite / "ret_small"
    plain = load_task(folder)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    (folder / "corpus.jsonl").unlink()
    with (folder / "corpus.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    qrels = (folder / "qrels.tsv").read_text()
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    assert load_task(folder) == plain
    (folder / "corpus.csv").write_text("id,text\nd0,one, two\n")
    with pytest.raises(EmbedserveError, match=r"corpus\.csv: line 2 has 3 fields"):
        load_task(folder)


def test_a_report_never_replaces_what_is_read(suite, tmp_path):
    run = tmp_path / "run.json"
    Run("m").save(run)
    before = run.read_bytes()
    command = [sys.executable, "-m", "embedserve", "eval", str(run), "-o", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "is an input" in done.stderr
    assert run.read_bytes() == before
