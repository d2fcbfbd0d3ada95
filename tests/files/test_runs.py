"""A run may be killed, started twice, stopped, pointed at its input: nothing is lost, nothing is mixed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from light_embed import command, light_embed

FORMS = ["jsonl", "jsonl.gz", "jsonl.zst", "npy", "npz", "parquet", "arrow"]
OPTIONS = ("--dimension", "16", "--id", "id", "--keep", "n")
SLOW = {"PART_ROWS": "20", "SECONDS_PER_TOKEN": "0.002"}


def write_rows(path: Path, count: int) -> Path:
    rows = (
        {
            "id": f"r{i}",
            "n": i if i < count // 2 else i + 0.5,
            "text": None if i % 7 == 3 else f"row {i} " * (i % 5),
        }
        for i in range(count)
    )
    lines = [json.dumps(row) for row in rows]
    lines[count // 3] = '{"broken": '
    path.write_text("\n".join(lines) + "\n")
    return path


def outputs(folder: Path, name: str) -> dict[str, bytes]:
    """What a run has made, by name; the manifest says when, so it does not count."""
    return {
        path.name.replace(name, "NAME"): path.read_bytes()
        for path in folder.iterdir()
        if path.name.startswith(name) and not path.name.endswith(".manifest")
    }


@pytest.mark.parametrize("form", FORMS)
def test_killed_at_random_moments_and_resumed_to_the_same_bytes(tmp_path: Path, form: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 300)
    light_embed(
        rows,
        "-o",
        tmp_path / f"whole.{form}",
        *OPTIONS,
        "--skip-errors",
        tmp_path / "whole.bad",
        PART_ROWS="20",
    )
    draw = random.Random(form)
    arguments = (
        "embed",
        rows,
        "-o",
        tmp_path / f"killed.{form}",
        *OPTIONS,
        "--skip-errors",
        tmp_path / "killed.bad",
    )
    parts, kills = tmp_path / f"killed.{form}.parts", 0
    for _ in range(4):
        process = subprocess.Popen(
            command(*arguments, "--resume"), stderr=subprocess.DEVNULL, env=os.environ | SLOW
        )
        before = len(list(parts.glob("*"))) if parts.is_dir() else 0
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:  # until it has done something more
            if parts.is_dir() and len(list(parts.glob("*"))) > before + 2:
                break
            time.sleep(0.005)
        time.sleep(draw.random() * 0.2)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        if kills and not (tmp_path / f"killed.{form}").exists():
            assert not list(tmp_path.glob("killed.bad"))  # nothing half-written passes for whole
    assert kills
    light_embed(*arguments[1:], "--resume", PART_ROWS="20")
    assert outputs(tmp_path, "killed") == outputs(tmp_path, "whole")
    assert not parts.exists()
    again = light_embed(*arguments[1:], "--resume")
    assert b"there is nothing to resume" in again.stderr


def interrupt(
    tmp_path: Path, *arguments: object, number: int = signal.SIGKILL, form: str = "jsonl"
) -> subprocess.CompletedProcess[bytes]:
    """A run that is ended when some of its parts are done."""
    rows = tmp_path / "rows.jsonl"
    if not rows.exists():
        write_rows(rows, 300)
    out = tmp_path / f"out.{form}"
    process = subprocess.Popen(
        command("embed", rows, "-o", out, *(arguments or OPTIONS), "--skip-errors", tmp_path / "bad.jsonl"),
        stderr=subprocess.PIPE,
        env=os.environ | SLOW,
    )
    manifest = tmp_path / f"out.{form}.parts" / "manifest.json"
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(manifest.read_bytes())["counts"]["parts"] > 1:
                break
        time.sleep(0.005)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, b"", told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_what_is_done_and_the_command_that_goes_on(tmp_path: Path, number: int) -> None:
    ended = interrupt(tmp_path, number=number)
    assert ended.returncode == 130
    said = ended.stderr.decode().splitlines()
    assert "rows of" in said[-2]
    assert "are done. Go on with:" in said[-2]
    words = shlex.split(said[-1])
    assert words[-1] == "--resume"
    subprocess.run(words, check=True, env=os.environ | {"PART_ROWS": "20"})  # as it stands there
    whole = tmp_path / "whole.jsonl"
    light_embed(
        tmp_path / "rows.jsonl", "-o", whole, *OPTIONS, "--skip-errors", tmp_path / "b", PART_ROWS="20"
    )
    assert (tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--dimension", "32"), "--dimension 16, this run has --dimension 32"),
        (("--text-type", "query"), "--text-type not given, this run has --text-type query"),
        (("--instruct", "find"), "--instruct not given, this run has --instruct find"),
        (("--output-type", "dense&sparse"), "--output-type dense, this run has"),
        (("--truncate", "end"), "--truncate none, this run has --truncate end"),
        (("--encoding", "int8"), "--encoding float, this run has --encoding int8"),
        (("--recipe", "plain"), "--recipe ladder, this run has --recipe plain"),
        (("--keep", "n,id"), "--keep n, this run has --keep n,id"),
    ],
)
def test_resuming_with_other_options_is_refused_with_both_values(
    tmp_path: Path, killed: Path, changed: tuple[str, str], words: str
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    arguments = [word for word in OPTIONS]
    if changed[0] in arguments:
        at = arguments.index(changed[0])
        arguments[at : at + 2] = changed
    else:
        arguments += changed
    if "n,id" in arguments:
        arguments = [word for word in arguments if word not in ("--id",)]
        arguments.remove("id")
        words = "--id id, this run has --id not given"
    said = light_embed(
        tmp_path / "rows.jsonl",
        "-o",
        tmp_path / "out.jsonl",
        *arguments,
        "--skip-errors",
        tmp_path / "bad.jsonl",
        "--resume",
        code=2,
    )
    assert words in said.stderr.decode()
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a killed run has left."""
    folder = tmp_path_factory.mktemp("killed")
    interrupt(folder)
    return folder


def test_resuming_with_another_input_or_model_is_refused(tmp_path: Path, killed: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    arguments = (rows, "-o", out, *OPTIONS, "--skip-errors", tmp_path / "bad.jsonl", "--resume")
    good = rows.read_bytes()
    rows.write_bytes(good + b'{"id": "x", "n": 1, "text": "x"}\n')
    said = light_embed(*arguments, code=2).stderr.decode()
    assert (
        f"the input rows.jsonl of {len(good):,} bytes, this run has rows.jsonl of {len(good) + 33:,} bytes"
        in said
    )
    rows.write_bytes(good.replace(b"row 0", b"r0w 0").replace(b"row 1 ", b"r0w 1 "))
    assert "(digest " in light_embed(*arguments, code=2).stderr.decode()
    rows.write_bytes(good)
    other = write_rows(tmp_path / "other.jsonl", 50)
    assert "1 input files, this run has 2" in light_embed(other, *arguments, code=2).stderr.decode()
    manifest = tmp_path / "out.jsonl.parts" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["wanted"]["model"] = "0123456789abcdef"
    manifest.write_text(json.dumps(content))
    assert "model 0123456789abcdef, this run has model" in light_embed(*arguments, code=2).stderr.decode()
    said = light_embed(*arguments[:-1], code=2).stderr.decode()
    assert "an interrupted run has left" in said
    light_embed(*arguments[:-1], "--overwrite")
    assert out.exists()


def test_a_run_moved_elsewhere_goes_on(tmp_path: Path, killed: Path) -> None:
    shutil.copytree(killed, tmp_path / "moved")
    rows, out = tmp_path / "moved" / "rows.jsonl", tmp_path / "moved" / "out.jsonl"
    os.utime(rows)
    arguments = (rows, "-o", out, *OPTIONS, "--resume", "--skip-errors", tmp_path / "moved" / "bad.jsonl")
    said = light_embed(*arguments, PART_ROWS="20").stderr.decode()
    assert "rows were there before" in said
    left = light_embed(
        rows, "-o", out, *OPTIONS, "--resume", "--skip-errors", tmp_path / "moved" / "bad.jsonl"
    )
    assert b"is finished" in left.stderr
    said = light_embed(rows, "-o", out, "--resume", code=2).stderr.decode()
    assert "was made with --dimension 16, this run has --dimension 1024" in said


def test_a_second_run_on_one_output_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 300)
    arguments = (rows, "-o", tmp_path / "out.jsonl", *OPTIONS, "--skip-errors", tmp_path / "bad.jsonl")
    slow = SLOW | {"SECONDS_PER_TOKEN": "0.004"}
    first = subprocess.Popen(command("embed", *arguments), stderr=subprocess.DEVNULL, env=os.environ | slow)
    try:
        while not (tmp_path / "out.jsonl.parts" / "manifest.json").exists():
            assert first.poll() is None
            time.sleep(0.01)
        for more in ((), ("--resume",), ("--overwrite",)):
            said = light_embed(*arguments, *more, code=2).stderr.decode()
            assert "another run is writing" in said
    finally:
        assert first.wait(100) == 0
    light_embed(rows, "-o", tmp_path / "whole.jsonl", *OPTIONS, "--skip-errors", tmp_path / "b")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def link(kind: str, rows: Path, to: Path) -> Path:
    if kind == "symbolic":
        to.symlink_to(rows)
    elif kind == "hard":
        to.hardlink_to(rows)
    elif kind == "a folder's":
        (to.parent / "other").symlink_to(rows.parent, target_is_directory=True)
        return to.parent / "other" / rows.name
    return rows if kind == "same" else to if kind in ("symbolic", "hard") else rows


@pytest.mark.parametrize("kind", ["same", "symbolic", "hard", "a folder's"])
def test_the_output_is_never_the_input(tmp_path: Path, kind: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5)
    before = rows.read_bytes()
    out = link(kind, rows, tmp_path / "out.jsonl")
    for more in ((), ("--overwrite",), ("--resume",)):
        said = light_embed(rows, "-o", out, *more, code=2).stderr.decode()
        assert "is the input" in said
    assert (
        b"is the input" in light_embed(rows, "-o", tmp_path / "x.jsonl", "--skip-errors", out, code=2).stderr
    )
    assert rows.read_bytes() == before
    for form in ("npy", "parquet"):
        text = tmp_path / f"t.{form}"
        shutil.copy(rows, text)
        said = light_embed(text, "--input-format", "jsonl", "-o", text, code=2).stderr.decode()
        assert "is the input" in said


def test_redirected_onto_the_input(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5)
    before = rows.read_bytes()
    with rows.open("ab") as target:
        done = subprocess.run(command("embed", rows), stdout=target, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert b"standard output is the input" in done.stderr
    assert rows.read_bytes() == before


def test_what_others_made_is_not_replaced_and_what_we_made_is(tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("a\n")
    precious = tmp_path / "precious.jsonl"
    precious.write_text("years of work\n")
    assert b"is not an output of embedserve" in light_embed(rows, "-o", precious, code=2).stderr
    assert b"is not an output of embedserve" in light_embed(rows, "-o", precious, "--resume", code=2).stderr
    assert precious.read_text() == "years of work\n"
    precious.chmod(0o640)
    light_embed(rows, "-o", precious, "--overwrite")
    assert precious.stat().st_mode & 0o777 == 0o640
    rows.write_text("a\nb\n")
    light_embed(rows, "-o", precious)
    assert len(precious.read_text().splitlines()) == 2
    pointer = tmp_path / "pointer.jsonl"
    pointer.symlink_to(precious)
    rows.write_text("a\nb\nc\n")
    light_embed(rows, "-o", pointer)
    assert pointer.is_symlink()
    assert len(precious.read_text().splitlines()) == 3


def test_a_failed_run_leaves_the_earlier_output_as_it_was(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('"a"\n')
    out = tmp_path / "out.jsonl"
    light_embed(rows, "-o", out)
    before = out.read_bytes()
    rows.write_text('"b"\n7\n"c"\n')
    said = light_embed(rows, "-o", out, code=2).stderr.decode()
    assert "rows.jsonl: line 2 is a number" in said
    assert "--skip-errors FILE" in said
    assert out.read_bytes() == before
    assert not (tmp_path / "out.jsonl.parts").exists()
    done = light_embed(rows, "-o", out, "--skip-errors", tmp_path / "bad.jsonl")
    assert b"2 rows written" in done.stderr
    assert b"1 error set aside in" in done.stderr
    bad = json.loads((tmp_path / "bad.jsonl").read_text())
    assert (bad["file"], bad["place"], bad["index"], bad["row"]) == (str(rows), "line 2", 1, 7)
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == [0, 2]


def test_over_long_and_empty_texts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    long = "word " * 8200
    rows.write_text("".join(json.dumps(text) + "\n" for text in ["a", long, "\u200b", "b"]))
    said = light_embed(rows, code=2).stderr.decode()
    assert "line 2 has 8,200 tokens (Range of input length should be [1, 8192]): cut such texts with" in said
    done = light_embed(rows, "--skip-errors", tmp_path / "bad.jsonl")
    assert b"1 error set aside" in done.stderr
    assert json.loads((tmp_path / "bad.jsonl").read_text())["row"] == {"text": long}
    cut = light_embed(rows, "--truncate", "end")
    assert b"1 text cut" in cut.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5)
    for arguments in ((rows, "-o", "/dev/full"), (rows,)):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                command("embed", *arguments, "--skip-errors", tmp_path / "b"),
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
            )
        assert done.returncode == 2
        assert b"No space left on device" in done.stderr
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("a line\n" * 3000)
    process = subprocess.Popen(command("embed", rows), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert b"Traceback" not in said
    assert process.returncode != 0


def test_standard_input_in_every_form(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5).read_bytes().replace(b'{"broken": ', b'"fine"')
    done = light_embed("-", "--input-format", "jsonl", stdin=rows)
    assert len(done.stdout.splitlines()) == 3
    assert b"say e.g. --input-format jsonl" in light_embed("-", "--column", "text", stdin=rows, code=2).stderr
    said = light_embed("-", "-o", tmp_path / "o.jsonl", "--resume", stdin=rows, code=2).stderr
    assert b"save it to a file first" in said
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "t.parquet")
    with (tmp_path / "t.parquet").open("rb") as file:
        done = light_embed("-", "--input-format", "parquet", stdin=file.read())
    assert len(done.stdout.splitlines()) == 2


def test_a_folder_with_its_output_inside(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "b.jsonl").write_text('"b"\n')
    for _ in range(2):
        done = light_embed(tmp_path, "-o", tmp_path / "out.npy", "--skip-errors", tmp_path / "bad.jsonl")
        assert b"2 rows written" in done.stderr
    done = light_embed(tmp_path, "--skip-errors", tmp_path / "bad.jsonl")
    assert len(done.stdout.splitlines()) == 2


def test_other_programs_files_beside_an_output_are_never_touched(tmp_path: Path) -> None:
    """A folder of pieces, a manifest, a sidecar that only happen to have the names a run would use."""
    rows = tmp_path / "rows.txt"
    rows.write_text("one\ntwo\n")
    pieces = tmp_path / "data.jsonl.parts"
    pieces.mkdir()
    (pieces / "0001.jsonl").write_text('{"text":"mine"}\n')
    (tmp_path / "b.jsonl.manifest").write_text('{"entries": []}')
    (tmp_path / "c.npy.rows.jsonl").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given, output, words in (
        (rows, "data.jsonl", "is no folder of an interrupted run (it holds 0001.jsonl)"),
        (pieces, "data.jsonl", "is in data.jsonl.parts, which a run to"),
        (pieces / "0001.jsonl", "data.jsonl", "is in data.jsonl.parts, which a run to"),
        (rows, "b.jsonl", "b.jsonl.manifest is there already"),
        (rows, "c.npy", "c.npy.rows.jsonl is there already"),
    ):
        done = light_embed(given, "-o", tmp_path / output, "--dimension", "16", code=2)
        assert words in done.stderr.decode()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_bad_rows_are_not_written_over_a_file_that_holds_something_else(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": 1}\n{"text": "x"}\n')
    for content in ("notes\n", '{"reason": "mine", "text": "x"}\n', '"reason"\n'):
        mine = tmp_path / "mine.jsonl"
        mine.write_text(content)
        for output in ([], ["-o", tmp_path / "out.jsonl"]):
            done = light_embed(rows, "--skip-errors", mine, "--dimension", "16", *output, code=2)
            assert b"is there already" in done.stderr
            assert mine.read_text() == content


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Linux")
def test_a_file_below_dev_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("one\ntwo\n")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for _ in range(2):
            for name in ("out.npy", "out.jsonl"):
                light_embed(tmp_path / "rows.txt", "-o", Path(folder) / name, "--dimension", "16")
            assert len((Path(folder) / "out.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_device_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("one\ntwo\n")
    (tmp_path / "full").symlink_to("/dev/full")
    for output in ("/dev/full", tmp_path / "full"):
        done = light_embed(tmp_path / "rows.txt", "-o", output, "--dimension", "16", code=2)
        assert done.stderr.decode() == f"embedserve: cannot write {output}: No space left on device\n"
