"""The torchvision guard, each time in a fresh interpreter: an import happens only once in a process."""

import subprocess
import sys
import textwrap

import pytest


def python(code: str, *, path: str | None = None) -> subprocess.CompletedProcess:
    prefix = f"import sys; sys.path.insert(0, {path!r})\n" if path else ""
    return subprocess.run([sys.executable, "-c", prefix + textwrap.dedent(code)], capture_output=True, text=True)


def test_everything_the_lab_uses_works():
    run = python("""
        from labkit.core.torchvision_shim import torchvision
        import io, torch
        from PIL import Image
        from torchvision import datasets, models, utils
        from torchvision.models.feature_extraction import create_feature_extractor
        from torchvision.transforms import v2

        x = torch.rand(2, 3, 32, 40)
        vgg = models.vgg11(weights=None, num_classes=7).eval()
        assert vgg(x).shape == (2, 7)
        assert create_feature_extractor(vgg, ["features.0"])(x)["features.0"].shape == (2, 64, 32, 40)
        assert utils.make_grid(x, nrow=2, padding=2).shape == (3, 36, 86)
        assert torch.equal(v2.functional.horizontal_flip(x), x.flip(-1))
        assert v2.Resize((8, 10))(x).shape == (2, 3, 8, 10)
        assert v2.functional.pil_to_tensor(Image.new("RGB", (5, 4), "white")).eq(255).all()
        assert len(datasets.FakeData(size=3)) == 3 and datasets.ImageFolder and datasets.CIFAR10
        assert torchvision.__version__
    """)
    assert run.returncode == 0, run.stderr


# A stand-in package tells what the guard did, whichever torchvision this machine has.
@pytest.mark.parametrize(
    ("matching", "imports", "schemas"), [(True, 1, False), (False, 2, True)], ids=["matching", "mismatched"]
)
def test_schemas_are_registered_only_beside_a_mismatched_torch(tmp_path, matching, imports, schemas):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "half.py").write_text("")
    (package / "__init__.py").write_text(
        textwrap.dedent(f"""
        import builtins, torch
        builtins.imports = getattr(builtins, "imports", 0) + 1
        from torchvision import half
        half.seen = getattr(half, "seen", 0) + 1
        if not {matching}:
            torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
        """)
    )
    run = python(
        f"""
        import builtins, gc, sys, torch
        from labkit.core.torchvision_shim import torchvision
        gc.collect()
        assert torchvision is sys.modules["torchvision"] and torchvision.__file__.startswith({str(tmp_path)!r})
        assert builtins.imports == {imports}, builtins.imports
        assert torchvision.half.seen == 1      # the half-imported submodule was dropped, too
        for op in ("nms", "qnms"):
            defined = hasattr(torch.ops.torchvision, op)
            assert defined == {schemas}, op
        """,
        path=str(tmp_path),
    )
    assert run.returncode == 0, run.stderr


def test_any_other_error_is_passed_on(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('the disk is on fire')")
    run = python("import labkit.core.torchvision_shim", path=str(tmp_path))
    assert run.returncode == 1 and "the disk is on fire" in run.stderr
