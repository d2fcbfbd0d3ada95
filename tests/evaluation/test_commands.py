"""``embedserve eval`` as a person runs it, and the mteb wrapper, on the bundled model."""

import subprocess
import sys

import numpy as np
import pytest

from embedserve.evaluation.mteb import MtebModel
from embedserve.evaluation.report import Run


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
