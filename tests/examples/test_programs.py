"""The product documents' programs, run against a server with nothing changed but base URL and key."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving import KEY, Server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
ADDRESS = "http://127.0.0.1:8080"


def run(name: str, server: Server, folder: Path) -> str:
    """What a program prints, when its base URL is the server's."""
    program = folder / f"{name}.py"
    program.write_text((EXAMPLES / f"{name}.py").read_text("utf-8").replace(ADDRESS, server.url), "utf-8")
    environment = {**os.environ, "DASHSCOPE_API_KEY": KEY, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, program], capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_basic_call(server: Server, tmp_path: Path) -> None:
    answer = json.loads(run("basic_call", server, tmp_path))
    assert list(answer)[:4] == ["data", "model", "object", "usage"]
    assert len(answer["data"][0]["embedding"]) == 1024


def test_another_dimension(server: Server, tmp_path: Path) -> None:
    assert run("switch_dimensions", server, tmp_path) == "Embedding dimensions: 256\n"


def test_an_instruction(server: Server, tmp_path: Path) -> None:
    assert len(json.loads(run("instruct", server, tmp_path))) == 3


@pytest.mark.quick
def test_the_search_puts_an_ai_sentence_first(server: Server, tmp_path: Path) -> None:
    found = re.findall(r"Similarity: ([\d.]+), Document: (.+)", run("semantic_search", server, tmp_path))
    assert len(found) == 2
    assert "artificial intelligence" in found[0][1].lower()
    assert float(found[0][0]) >= float(found[1][0])


def test_the_recommendation_ranks_every_film(server: Server, tmp_path: Path) -> None:
    found = re.findall(
        r"Recommendation Score: ([\d.]+), Movie: (.+)", run("recommendation", server, tmp_path)
    )
    assert {film for _, film in found} == {
        "Future World",
        "Space Adventure",
        "Ancient War",
        "Romantic Journey",
        "Superhero",
    }
    scores = [float(score) for score, _ in found]
    assert scores == sorted(scores, reverse=True)


def test_the_clusters_tell_sport_from_technology(server: Server, tmp_path: Path) -> None:
    """As far as one k-means start allows: one group holds one subject only, of two texts at least."""
    pytest.importorskip("sklearn")
    printed = run("clustering", server, tmp_path)
    groups = [re.findall(r"^- (.+)$", part, re.M) for part in printed.split("--- Cluster")[1:]]
    assert sorted(map(len, groups), reverse=True)[0] < 6
    assert sum(map(len, groups)) == 6
    sport = ("World Cup", "Olympics", "European Cup")
    kinds = [{any(word in text for word in sport) for text in group} for group in groups]
    assert any(len(kind) == 1 and len(group) >= 2 for kind, group in zip(kinds, groups, strict=True)), groups


@pytest.mark.quick
def test_zero_shot_picks_apparel(server: Server, tmp_path: Path) -> None:
    assert "Best matching category: 'Apparel & Accessories'" in run("classification", server, tmp_path)


@pytest.mark.quick
def test_the_garbled_comment_is_the_least_similar(server: Server, tmp_path: Path) -> None:
    printed = run("anomaly_detection", server, tmp_path)
    scores = dict(re.findall(r"Comment: '(.+)'\n.*normal samples: ([\d.]+)\)", printed))
    assert set(scores) == {"The feature works as expected", "asdfghjkl zxcvbnm"}
    assert float(scores["asdfghjkl zxcvbnm"]) < float(scores["The feature works as expected"])


class _Skeleton(ast.NodeTransformer):
    """A program without docstrings, imports and where it calls."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if ast.get_docstring(node):
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = re.sub(r"^https?://[^/]+", "", node.value)
        return node


def is_docstring(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def statements(code: str) -> list[str]:
    tree = _Skeleton().visit(ast.parse(code))
    lines = [ast.unparse(line) for line in tree.body if not is_docstring(line)]
    ours = ("import ", "from ", "dashscope.base_http_api_url")
    return [line for line in lines if not line.startswith(ours)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_only_the_address_differs_from_the_document(name: str, shared_dir: Path) -> None:
    documents = "\n".join(path.read_text("utf-8") for path in sorted((shared_dir / "spec").glob("*.txt")))
    mine = statements((EXAMPLES / f"{name}.py").read_text("utf-8"))
    if name == "instruct":
        mine = mine[:-1]  # the document's snippet prints nothing
    starts = [match.start() for match in re.finditer(r"^(import|from|# [sS]c|resp = )", documents, re.M)]
    theirs = [statements_from(documents[start:]) for start in starts]
    assert any(mine == program[: len(mine)] for program in theirs), mine


def statements_from(text: str) -> list[str]:
    """The statements of the program that a text begins with, up to where prose follows."""
    lines = text.split("\n")[:80]
    for end in range(len(lines), 0, -1):
        try:
            return statements("\n".join(lines[:end]))
        except SyntaxError:
            continue
    return []
