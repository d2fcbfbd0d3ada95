"""Links to results: good for one name, for a while."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from embedserve.jobs.links import SECRET_FILE, LinkSigner

pytestmark = pytest.mark.quick


def test_a_link_opens_its_own_name_until_it_expires(tmp_path: Path) -> None:
    signer, later = LinkSigner(tmp_path), int(time.time()) + 60
    signature = signer.sign("a.gz", later)
    assert signer.opens("a.gz", str(later), signature)
    assert not signer.opens("b.gz", str(later), signature)
    assert not signer.opens("a.gz", str(later + 1), signature)
    past = int(time.time()) - 1
    assert not signer.opens("a.gz", str(past), signer.sign("a.gz", past))


@pytest.mark.parametrize("expires", ["", "-1", "1e9", "٣", "9" * 40, "x"])
def test_a_broken_link_opens_nothing(tmp_path: Path, expires: str) -> None:
    assert not LinkSigner(tmp_path).opens("a.gz", expires, "0" * 64)
    assert not LinkSigner(tmp_path).opens("a.gz", "9999999999", "\udcff")


def test_nodes_that_share_the_folder_open_each_others_links(tmp_path: Path) -> None:
    later = int(time.time()) + 60
    assert LinkSigner(tmp_path).opens("a", str(later), LinkSigner(tmp_path).sign("a", later))
    assert stat.S_IMODE((tmp_path / SECRET_FILE).stat().st_mode) == 0o600
