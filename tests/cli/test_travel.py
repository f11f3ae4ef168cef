"""Artifacts that travel: whole or not at all, and never past the store."""

import io
import json
import os
import random
import tarfile

from labkit.__main__ import main
from labkit.cli import travel
from labkit.core.errors import InputError
from labkit.core.recipes import DictionaryRecipe
from labkit.core.store import Store, key, read

import pytest
import torch

RECIPES = [DictionaryRecipe(K=k) for k in (3, 4)]
CASES = int(os.environ.get("LABKIT_FUZZ", "400"))  # 10,000 for the long run


def filled(root, value=1.0):
    store = Store(root)
    for recipe in RECIPES:
        store.fetch("dictionary", recipe, lambda _: ({"d": torch.full((2, 3), value)}, {"note": "é"}))
    return store


@pytest.fixture
def packed(tmp_path):
    file, store = tmp_path / "some.tar", filled(tmp_path / "here")
    assert travel.pack(store, [("dictionary", key(r)) for r in RECIPES] + [("row", "0" * 16)], file) == 2
    return file


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_was_packed_is_taken_in_whole_and_once(packed, tmp_path):
    there = Store(tmp_path / "there")
    assert travel.unpack(there, packed) == (2, 0, [])
    assert files(there.root) == files(tmp_path / "here")
    assert travel.unpack(there, packed) == (0, 2, [])
    calls = []
    found = there.fetch("dictionary", RECIPES[0], lambda _: calls.append(1))
    assert not calls and torch.equal(found.tensors["d"], torch.ones(2, 3))
    # A plain tar of plain files, which says nothing of who packed it, or when.
    with tarfile.open(packed, "r:") as tar:
        assert {(m.type, m.uname, m.mtime, m.mode) for m in tar} == {(tarfile.REGTYPE, "", 0, 0o644)}


def test_what_is_here_and_differs_stays(packed, tmp_path):
    there = filled(tmp_path / "there", value=2.0)
    new, same, other = travel.unpack(there, packed)
    assert (new, same, sorted(other)) == (0, 0, sorted(f"dictionary/{key(r)}" for r in RECIPES))
    assert read(there.root / "dictionary" / key(RECIPES[0])).tensors["d"].mean() == 2


def test_a_damaged_artifact_is_not_packed(tmp_path):
    store = filled(tmp_path)
    (store.root / "dictionary" / key(RECIPES[0]) / "facts.json").write_text("{}")
    assert travel.pack(store, [("dictionary", key(r)) for r in RECIPES], tmp_path / "some.tar") == 1


def test_a_table_is_made_on_another_machine_without_computing_anything(tmp_path, capsys):
    words = ["--profile", "smoke", "--convention", "released", "--epochs", "1"]
    only = ["--only", "defense=No Defense,STL", "--only", "attack=Clean,FGSM-0.04,FGSM-4/255"]
    table = ["table", "5", *words, *only]
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "some.tar"
    assert main([*table, "--store", str(here), "--out", str(tmp_path / "one")]) == 0
    assert main(["artifacts", "export", str(file), "--for", "table:5", *words, "--store", str(here)]) == 0
    assert main(["artifacts", "import", str(file), "--store", str(there)]) == 0
    assert "attack" not in os.listdir(there)  # images are large, and rows do not need them
    before = files(there)
    assert main([*table, "--store", str(there), "--out", str(tmp_path / "other")]) == 0
    assert files(there) == before
    one, other = (files(tmp_path / name) for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert [str(name) for name in one if one[name] != other[name] and name.suffix != ".json"] == []
    page = (tmp_path / "one" / "table_5_released.md").read_text()
    assert "# Table 5 (sizes and T as released): CIFAR-10" in page and "8/255 bounds each pixel's change" in page
    assert "--convention released --epochs 1 --only" in page and "Epochs of training: on the images 1." in page

    capsys.readouterr()
    for options, said in (
        (["--for", "table:9"], "the paper has no table '9'"),
        (["--for", "5"], "--for names a table, as table:1; got '5'"),
        (["--what", "row,weights"], "no kinds of artifacts: weights; choose from row"),
        (["--store", str(tmp_path / "none")], "nothing of this is in"),
    ):
        assert main(["artifacts", "export", str(file), "--profile", "smoke", "--store", str(here), *options]) == 2
        assert said in capsys.readouterr().err
    assert main(["artifacts", "export", str(tmp_path / "no" / "x.tar"), "--what", "row", "--store", str(here)]) == 2
    assert "name a file in a folder that can be written" in capsys.readouterr().err


def test_import_says_what_it_kept_of_ours(packed, tmp_path, capsys):
    filled(tmp_path / "there", value=2.0)
    assert main(["artifacts", "import", str(packed), "--store", str(tmp_path / "there")]) == 1
    said = capsys.readouterr().out
    assert "0 artifacts are new, 0 were here already" in said and said.count("kept ours: dictionary/") == 2


def rewritten(file, change):
    """The tar again, its members (name, bytes, type) passed through `change`, listed truly."""
    with tarfile.open(file, "r:") as tar:
        members = [[m.name, tar.extractfile(m).read(), tarfile.REGTYPE] for m in tar]
    with tarfile.open(file, "w") as tar:
        for name, content, kind in change(members):
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(content), kind, "/etc/passwd"
            tar.addfile(entry, io.BytesIO(content))
    return file


def truly(members):
    """With a list of contents that fits the others."""
    import hashlib

    listed = {name: hashlib.sha256(content).hexdigest() for name, content, _ in members[1:]}
    return [[members[0][0], json.dumps(listed).encode(), members[0][2]], *members[1:]]


HOSTILE = {
    "a file beside the store": lambda m: truly([*m, ["../../evil", b"x", tarfile.REGTYPE]]),
    "an absolute path": lambda m: truly([*m, ["/tmp/evil", b"x", tarfile.REGTYPE]]),
    "a link": lambda m: truly([m[0], [m[1][0], b"", tarfile.SYMTYPE], *m[2:]]),
    "a hard link": lambda m: truly([m[0], [m[1][0], b"", tarfile.LNKTYPE], *m[2:]]),
    "a device": lambda m: truly([m[0], [m[1][0], b"", tarfile.CHRTYPE], *m[2:]]),
    "a folder": lambda m: truly([*m, ["dictionary", b"", tarfile.DIRTYPE]]),
    "a pickle": lambda m: truly([*m, [m[1][0].rpartition("/")[0] + "/model.pkl", b"x", tarfile.REGTYPE]]),
    "a file twice": lambda m: [*m, m[1]],
    "a file too few": lambda m: m[:-1],
    "no list": lambda m: m[1:],
    "a list that is none": lambda m: [[m[0][0], b"[1, 2]", m[0][2]], *m[1:]],
    "a list too deep": lambda m: [[m[0][0], b"[" * 100_000, m[0][2]], *m[1:]],
    "another artifact's name": lambda m: truly([[n.replace(key(RECIPES[0]), "0" * 16), c, k] for n, c, k in m]),
    "an artifact without its manifest": lambda m: truly([x for x in m if not x[0].endswith("/manifest.json")]),
    "content that is not what its manifest says": lambda m: truly(
        [[n, c.replace(b"\\u00e9", b"\\u00e8") if n.endswith("facts.json") else c, k] for n, c, k in m]
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_file_is_refused_with_a_sentence_and_nothing_is_taken_in(packed, tmp_path, how):
    there, before = Store(tmp_path / "there"), files(tmp_path)
    with pytest.raises(
        InputError, match=r"cannot take in .* nothing was: pack it again with `labkit artifacts export`$"
    ):
        travel.unpack(there, rewritten(packed, HOSTILE[how]))
    before.pop(packed.relative_to(tmp_path))
    after = files(tmp_path)
    after.pop(packed.relative_to(tmp_path))
    assert after == before and not any(there.root.iterdir())


def test_a_compressed_tar_is_no_plain_one(packed, tmp_path):
    other = tmp_path / "some.tar.gz"
    with tarfile.open(other, "w:gz") as tar:
        tar.add(packed)
    with pytest.raises(InputError, match="cannot take in"):
        travel.unpack(Store(tmp_path / "there"), other)
    with pytest.raises(InputError, match="No such file"):
        travel.unpack(Store(tmp_path / "there"), tmp_path / "none.tar")


def test_damage_anywhere_is_refused_or_harmless(packed, tmp_path):
    raw, whole, generator = packed.read_bytes(), files(tmp_path / "here"), random.Random(0)
    taken = 0
    for case in range(CASES):
        broken = bytearray(raw)
        match case % 4:
            case 0:
                broken[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
            case 1:
                del broken[generator.randrange(len(raw)) :]
            case 2:
                at = generator.randrange(len(raw))
                broken[at : at + 512] = generator.randbytes(512)
            case 3:
                at = 512 * generator.randrange(len(raw) // 512)
                broken[at:at] = broken[: 512 * generator.randrange(4)]
        packed.write_bytes(broken)
        there = Store(tmp_path / f"there{case}")
        try:
            travel.unpack(there, packed)
        except InputError:
            assert not any(there.root.iterdir())
        else:  # what was hit says nothing: padding, or a field that nobody reads
            taken += 1
            assert files(there.root) == whole
    assert 0 < taken < 0.75 * CASES
