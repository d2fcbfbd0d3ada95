import json
from pathlib import Path

import pytest

from embedserve.embedding.models.store import MANIFEST, ModelStore
from embedserve.errors import ModelLoadError

pytestmark = pytest.mark.quick


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "some-model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "pytorch_model.bin").write_bytes(b"the same again")
    (folder / "README.md").write_text("not needed")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_pull_list_show_verify_remove(store: ModelStore, source: Path) -> None:
    assert store.all() == []
    manifest = store.pull(str(source), name="owner/some-model")
    assert set(manifest.files) == {"config.json", "1_Pooling/config.json", "model.safetensors"}
    assert [one.id for one in store.all()] == ["owner/some-model"]
    assert store.show("owner/some-model") == manifest
    assert store.find("owner/some-model") == (store.root / "owner--some-model", manifest.id, manifest)
    assert store.verify("owner/some-model") == []
    store.remove("owner/some-model")
    assert store.all() == []
    with pytest.raises(ModelLoadError, match="embedserve models pull owner/some-model"):
        store.show("owner/some-model")


def test_changed_and_missing_files_are_named(store: ModelStore, source: Path) -> None:
    store.pull(str(source))
    folder = store.folder("some-model")
    (folder / "model.safetensors").write_bytes(b"Weights" * 100)
    (folder / "config.json").unlink()
    assert [problem.split()[0] for problem in store.verify("some-model")] == [
        "config.json",
        "model.safetensors",
    ]


def test_a_broken_off_pull_goes_on_and_leaves_no_half_model(store: ModelStore, source: Path) -> None:
    told: list[str] = []

    def stop(line: str) -> None:
        told.append(line)
        if line == "model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull(str(source), report=stop)
    assert store.all() == []
    told.clear()
    store.pull(str(source), report=told.append)
    assert told == ["model.safetensors", "hashing"]
    assert store.verify("some-model") == []


def test_a_copied_folder_is_a_model_elsewhere(store: ModelStore, source: Path, tmp_path: Path) -> None:
    """The air-gapped way in: copy the folder, manifest included."""
    store.pull(str(source), name="owner/some-model")
    elsewhere = ModelStore(tmp_path / "other" / "models")
    elsewhere.root.mkdir(parents=True)
    store.folder("owner/some-model").rename(elsewhere.folder("owner/some-model"))
    assert elsewhere.show("owner/some-model").id == "owner/some-model"
    assert elsewhere.verify("owner/some-model") == []


@pytest.mark.parametrize("name", ["..", "a/../b", "", "/", "a\\b"])
def test_names_never_leave_the_store(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelLoadError):
        store.folder(name)


def test_a_folder_that_is_no_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        store.pull(str(tmp_path / "empty"))
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        store.find(str(tmp_path / "empty"))


def test_a_damaged_manifest_says_so(store: ModelStore, source: Path) -> None:
    store.pull(str(source))
    (store.folder("some-model") / MANIFEST).write_text(json.dumps({"id": 1}))
    with pytest.raises(ModelLoadError, match="damaged"):
        store.show("some-model")
