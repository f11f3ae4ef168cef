"""What a measurement of scaling says, as tables, and what it foretells for ImageNet at 224 pixels."""

import math

from benchmarks import stamps

import pandas as pd

TRAIN, TEST = 1_281_167, 50_000  # images of ILSVRC-2012
EPOCHS = 100  # of retraining, as in the profile `paper`
LEARNED, BATCH = 100_000, 50  # images coded while learning by that profile (10,000, ten times), and in a batch

# What is not measured here, and has to be put right for another place.
CORE_HOUR, GPU_HOUR = 0.04, 3.00  # dollars
BANDWIDTH = 3.0e12 * 0.5  # bytes a second of a GPU's memory, of which half is reached
TOUCHED = 30  # times that one pass of ADMM reads or writes an array as large as the codes
GPU_TRAINED = 2_000  # images a second and GPU: ResNet-50 at 224, forward and backward, bfloat16
CORE_FLOPS, RESNET_FLOPS = 50e9, 24.6e9  # a second of a core, sustained; of ResNet-50 for one image, there and back

_FORETELLING = ("resolution", "message", "ranks")  # parts that the forecast rests on
_WHERE = ((1, "GPU"), (8, "GPU"), (64, "GPU"), (1, "core"), (1_000, "core"))


def markdown(record: dict) -> str:
    """The record as tables, and the forecast if all that it rests on has been measured."""
    parts = []
    for part, table in (
        ("resolution", _resolution), ("filters", _filters), ("ranks", _ranks), ("memory", _memory),
        ("learning", _learning), ("message", _message),
    ):  # fmt: skip
        if part in record:
            parts += [table(record[part]), stamps.told(record[part]["on"])]
    if record.keys() >= set(_FORETELLING):
        parts.append(_forecast(record))
    return "\n\n".join(parts) + "\n"


def _resolution(part: dict) -> str:
    rows = part["rows"]
    base = rows[0]
    lines = [
        [f"{r['size']}×{r['size']}×3", r["n"], f"{r['ms']:.2f}", f"{r['ms'] / (r['size'] / base['size']) ** 2:.2f}"]
        for r in rows
    ]
    return "### An image against its resolution (K = 64, S = 8, λ = 0.2; photographs)\n\n" + _table(
        ["size", "n", "T(x), ms an image", f"the same, per {base['size']}×{base['size']} pixels"], lines
    )


def _filters(part: dict) -> str:
    lines = [[r["K"], r["n"], f"{r['ms']:.2f}", f"{r['ms'] / r['K'] * 64:.2f}"] for r in part["rows"]]
    return "### An image against the number of filters (32×32×3)\n\n" + _table(
        ["K", "n", "T(x), ms an image", "the same, per 64 filters"], lines
    )


def _ranks(part: dict) -> str:
    rows = part["rows"]
    alone = rows[0]["seconds"]
    lines = [
        [r["ranks"], f"{r['images']:,}", f"{r['seconds']:.1f}", f"{alone / r['seconds']:.2f}×", f"{r['command']:.1f}",
         f"{rows[0]['command'] / r['command']:.2f}×"] for r in rows
    ]  # fmt: skip
    head = ["ranks", "images", "projecting, s", "speed-up", "whole command, s", "speed-up"]
    return f"### Projecting {part['on']['data']} by ranks of one thread\n\n" + _table(head, lines)


def _memory(part: dict) -> str:
    lines = [[f"{r['images']:,}", r["ranks"], f"{r['peak_gib']:.3f}"] for r in part["rows"]]
    return f"### Memory of a rank while projecting {part['on']['data']}\n\n" + _table(
        ["images", "ranks", "peak of the larger rank (VmHWM), GiB"], lines
    )


def _learning(part: dict) -> str:
    alone = part["rows"][0]["seconds"]
    lines = [[r["ranks"], f"{r['seconds']:.1f}", f"{alone / r['seconds']:.2f}×"] for r in part["rows"]]
    head = ["ranks", "learning with loading the images, s", "speed-up"]
    return f"### Learning the dictionary of a profile from {part['on']['data']}\n\n" + _table(head, lines)


def _message(part: dict) -> str:
    m = part["rows"]
    return "### One step of learning, beside coding (K = 64, S = 8, C = 3)\n\n" + _table(
        ["bytes of its all-reduce", "between two ranks of gloo, ms", "update of the filters, ms"],
        [[f"{m['bytes']:,}", f"{m['ms']:.1f}", f"{m['update_ms']:.1f}"]],
    )


def _forecast(record: dict) -> str:
    at = record["resolution"]["rows"][-1]
    message, ranks = record["message"]["rows"], record["ranks"]["rows"]
    core = at["ms"] / 1e3
    codes = 4 * 64 * at["size"] ** 2
    gpu = at["admm_passes"] * TOUCHED * codes / BANDWIDTH
    share = min(1.0, ranks[0]["seconds"] / ranks[-1]["seconds"] / ranks[-1]["ranks"])
    start = max(0.0, ranks[-1]["command"] - ranks[-1]["seconds"])
    step = (message["ms"] + message["update_ms"]) / 1e3
    each = {"core": core, "GPU": gpu}
    trained = {"core": RESNET_FLOPS / CORE_FLOPS, "GPU": 1 / GPU_TRAINED}
    price = {"core": CORE_HOUR, "GPU": GPU_HOUR}
    lines = []
    for n, kind in _WHERE:
        # On the ranks' cores, whatever else there is. No more ranks than images in a batch have anything to code.
        learn = LEARNED / BATCH * (math.ceil(BATCH / n) * core + step)
        project = (TRAIN + TEST) * each[kind] / (n * (share if n > 1 else 1)) + start
        retrain = EPOCHS * TRAIN * trained[kind] / (n * (share if n > 1 else 1))
        dollars = n * (project / 3600) * price[kind], n * (learn + project + retrain) / 3600 * price[kind]
        lines.append(
            [f"{n:,} {kind}{'s' if n > 1 else ''}", *map(_time, (learn, project, retrain)), *map(_money, dollars)]
        )
    head = ["on", "learning", "projecting", "retraining", "projecting, $", "everything, $"]
    arithmetic = [
        f"- a core: {at['ms']:.0f} ms an image, measured at {at['size']}×{at['size']}",
        f"- a GPU, **not measured**: {at['admm_passes']} passes of ADMM (counted here, to the same gap of 1 %) × "
        f"{TOUCHED} readings or writings of 64 × {at['size']}² × 4 = {codes / 1e6:.1f} MB of codes / "
        f"{BANDWIDTH / 1e12:.1f} TB/s = {1e3 * gpu:.0f} ms an image",
        f"- projecting: ({TRAIN:,} + {TEST:,}) images × time / (number × {share:.2f}, the efficiency measured with "
        f"{ranks[-1]['ranks']} ranks), and the start of every rank, {start:.0f} s",
        f"- learning, on one core of each rank: {LEARNED:,} codes in {LEARNED // BATCH:,} batches of {BATCH}; each "
        f"takes ⌈{BATCH} / number⌉ × {at['ms']:.0f} ms + {message['ms']:.0f} ms of all-reduce + "
        f"{message['update_ms']:.0f} ms of update",
        f"- retraining, **assumed**: {EPOCHS} epochs of ResNet-50 on {TRAIN:,} images; {GPU_TRAINED:,} images a second "
        f"and GPU, or {RESNET_FLOPS / 1e9:.1f} GFLOP an image at {CORE_FLOPS / 1e9:.0f} GFLOP/s and core",
        f"- prices, **assumed**: ${GPU_HOUR:.2f} a GPU and hour, ${CORE_HOUR:.2f} a core and hour",
    ]
    machines = {(record[part]["on"]["processor"], record[part]["on"]["cores"]) for part in _FORETELLING}
    if len(machines) > 1:
        arithmetic.append(f"- {', '.join(_FORETELLING)}: **measured on {len(machines)} kinds of machines**")
    return "### ImageNet at 224\n\n" + _table(head, lines) + "\n\nThe arithmetic:\n\n" + "\n".join(arithmetic)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} d"


def _money(dollars: float) -> str:
    return f"{dollars:,.2f}" if dollars < 10 else f"{dollars:,.0f}"


def _table(head: list, lines: list[list]) -> str:
    return pd.DataFrame(lines, columns=head).to_markdown(index=False, disable_numparse=True)
