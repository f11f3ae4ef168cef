"""Versions, commits and digests, against what git and hashlib are known to say."""

import os
import subprocess

import labkit
from labkit.core import checkpoint, hardware

import pytest
import torch


def test_versions_name_the_installed_and_leave_out_the_absent():
    found = hardware.versions("torch", "no-such-package-at-all")
    assert found["labkit"] == labkit.__version__
    assert found["torch"] == torch.__version__
    assert "no-such-package-at-all" not in found


def test_commit_is_marked_when_a_tracked_file_changed(tmp_path):
    def git(*arguments):
        who = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "core.hooksPath=/dev/null",
        ]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert hardware.commit(tmp_path) == ""
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert hardware.commit(tmp_path) == head
    (tmp_path / "new").write_text("untracked files change nothing")
    assert hardware.commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    assert hardware.commit(tmp_path) == head + "+"


def test_fingerprint_of_the_empty_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "empty").touch()
    # The SHA-256 of nothing is in every textbook.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert checkpoint.fingerprint(tmp_path / "sub" / "empty", tmp_path) == {
        "path": "sub/empty",
        "bytes": 0,
        "sha256": empty,
    }


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    checkpoint.write_whole(tmp_path / "page", b"old")

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match="no space"):
            checkpoint.write_whole(tmp_path / "page", b"new")
    assert (tmp_path / "page").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_file_is_on_disk_before_it_replaces_another(tmp_path, monkeypatch):
    """A machine that loses power between the two would keep the new name with nothing behind it."""
    done = []
    flush, replace = checkpoint.flush, os.replace
    monkeypatch.setattr(checkpoint, "flush", lambda path: (done.append("flush"), flush(path)))
    monkeypatch.setattr("os.replace", lambda *names: (done.append("replace"), replace(*names)))
    checkpoint.write_whole(tmp_path / "page", b"new")
    checkpoint.write(tmp_path / "epoch.safetensors", {}, {"x": torch.ones(2)}, {})
    assert done == ["flush", "replace"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch.safetensors", "page"]
