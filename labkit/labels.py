"""What tables call attacks and defenses, by their names in `labkit.attacks` and `labkit.defenses`."""

ATTACKS = {
    "clean": "Clean",
    "deepfool": "DeepFool",
    "universal": "Uni",
    "lowfreq": "Low-pass PGD",
    "square": "Square",
    "autoattack": "AutoAttack",
    "noise": "Noise",
}
# How the size of an attack is written in each norm; in all others, as a relative L2 measure.
SIZES = {"l2": "-L2-{:g}", "linf": "-L∞-{:.3f}", "none": "", "average": "-{:.2f} avg"}
DEFENSES = {
    "jpeg": "JPEG",
    "bits": "Bit depth",
    "median": "Median",
    "lowpass": "Blur of STL's PSNR",
    "nlm": "Non-local means",
    "tvm": "TVM",
    "quilting": "Quilting",
    "crops": "Crop-Ens",
    "tvm-quilting": "TVM+quilt",
    "deflection": "PD-Ens",
    "magnet": "MagNet",
    "magnet-detector": "MagNet detector",
    "pixeldefend": "PixelDefend",
    "d3": "D3",
    "sap": "SAP",
    "lid": "LID",
}
