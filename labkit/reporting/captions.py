"""Captions: what a table shows, on which images and network, and how to read it; one line each."""

from collections.abc import Iterable

from labkit.core.metrics import Point, difference
from labkit.core.wording import in_markdown
from labkit.evaluation import ThreatModel
from labkit.evaluation.threat_models import inside_network
from labkit.experiments import published_numbers
from labkit.reporting import tables

import pandas as pd

_FAR = 0.25  # of all images


def lines(*parts: str) -> str:
    """Markdown that keeps its lines."""
    return "  \n".join(" ".join(part.split()) for part in parts)


def table(rows: pd.DataFrame, name: str, note: str = "", checks: str = "") -> str:
    """Under a table of the paper, or rows of its attacks: three lines, one on what is `_broken`, and the rest folded.

    note    more on images and networks
    checks  what `sanity_checks.verdicts` says of the attacks
    """
    printed, data, networks = published_numbers.table(name).attrs, in_markdown(_all(rows.data)), _all(rows.classifier)
    sizes, attacked = ", ".join(f"{n:,}" for n in sorted(set(rows.n))), rows.attack[rows.attack != "Clean"]
    told = (
        f"Robust accuracy with 95 % Wilson intervals, beside the paper's Table {published_numbers.called(name)}.",
        f"Ours: {data}, n = {sizes} test images, {networks}. The paper: {printed['dataset']}, {printed['classifier']}, "
        f"{printed['resolution']} pixels. {note}",
        "Compare each block with its own “No Defense”: images and networks differ. The paper does not say which threat "
        "model its retrained rows have.",
    )
    how = {"kinds": sorted(set(attacked.str.contains("-L∞-|-L2-"))), "released": published_numbers.convention(name)[1]}
    how |= {"models": threat_models(zip(rows.knowledge, rows.defense, strict=True)), "checks": checks}
    return f"{lines(*told, *_broken(rows))}\n\n{tables.page('folded.md', **how).strip()}"


def _broken(rows: pd.DataFrame) -> list[str]:
    """A sentence on defenses that get far fewer clean images right than the undefended network, where there are any."""
    clean = {row: Point(None, row.accuracy, row.low, row.high) for row in rows[rows.attack == "Clean"].itertuples()}
    bare = next((point for row, point in clean.items() if row.defense == "No Defense"), None)
    gaps = {row: difference(bare, point) for row, point in clean.items()} if bare else {}
    far = [row for row, gap in gaps.items() if gap.number > _FAR and gap.low > 0]
    if not far:
        return []
    told = ", ".join(f"{row.defense} {row.accuracy:.2f} (n = {row.n:,})" for row in far)
    told = f"Broken before anyone attacks: the clean accuracy of {told}; No Defense has {bare.number:.2f}."
    return [f"{told} Their accuracy under attack says nothing of robustness."]


def overview(rows: pd.DataFrame, worst: pd.DataFrame, checks: str) -> str:
    """What one would mail of `paper_tables.grid`: three sentences, the threat models, and what failed its checks.

    worst  of `measurement.worst_case`, by defense;  checks  what `sanity_checks.verdicts` says
    """
    name = [name for name in rows.defense if name.startswith("STL")][-1]
    knows = rows.knowledge.map(lambda word: ThreatModel(word).knows_defense)
    mine = rows.defense == name
    kinds = rows.defense == "No Defense", mine & rows.retrained & ~knows, mine & knows
    bare, grey, white = (rows[kind & (rows.attack != "Clean")].accuracy for kind in kinds)
    clean = [rows[kind & (rows.attack == "Clean")].accuracy.iloc[0] for kind in kinds[:2]]
    least = "; ".join(f"{row.accuracy:.2f} (n = {row.n:,})" for row in worst[worst.defense == name].itertuples())
    numbers = {"clean": clean, "bare": bare, "grey": grey, "white": white, "least": least, "n": f"{rows.n.max():,}"}
    models = threat_models(zip(rows.knowledge, rows.defense, strict=True))
    return tables.page("overview.md", name=name, models=models, checks=checks, **numbers).strip()


def unfolding(answers: Iterable[tuple[str, str]]) -> str:
    """Questions whose answers unfold."""
    told = "<details><summary>{}</summary>\n\n{}\n\n</details>"
    return "\n\n".join(told.format(*pair) for pair in answers)


def adaptive(rows: pd.DataFrame) -> str:
    """Whether every white box on a defense is at least as strong as every grey box of its size (`baselines.cases`)."""
    weaker, count = [], 0
    for (defense, _), mine in rows[rows.attack != "Clean"].groupby(["defense", "budget"], sort=False):
        grey = mine[mine.knowledge.isin((ThreatModel.SURROGATE.value, ThreatModel.WEIGHTS.value))]
        models = {row: ThreatModel.of(row.knowledge, defense) for row in mine.itertuples()}
        white = [row for row, model in models.items() if "white box" in model.label and not inside_network(defense)]
        least, count = grey.accuracy.min(), count + len(white)
        weaker += [f"{defense}, {models[row].told(row.attack)} ({row.accuracy:.3f} against {least:.3f})"
                   for row in white if row.accuracy > least]  # fmt: skip
    if not count:
        return ""
    failed = f"failed by {len(weaker)} of {count}: {'; '.join(weaker)}" if weaker else f"passed by all {count}"
    return f"Sanity check, no attack that knows a defense is weaker than one that does not: {failed}."


def sweep(rows: pd.DataFrame) -> str:
    """Under a sweep of one choice (`ablations.sweep`)."""
    first = rows.iloc[0]
    network = "retrained on T(x) for every value" if first.retrained else "vanilla: trained on natural images"
    return lines(
        "PSNR of T(x), and accuracy, for every value of a choice.",
        f"{in_markdown(first.data)}, n = {first.n:,} test images, the same for every value; {first.classifier}, "
        f"{network}.",
        "Brackets are 95 % intervals: Wilson's for accuracies, mean ± 1.96 standard errors for PSNR. Sizes of attacks "
        f"are relative L2 dissimilarities. {threat_models(zip(rows.knowledge, rows.defense, strict=True))}",
    )


def psnr_accuracy() -> str:
    """Under the rows of `paper_tables.intervals`."""
    return lines(
        "PSNR of T(x_adv) to x, and accuracy on clean and attacked images, of every defense.",
        "Vanilla network; the attack is FGSM-0.08 and does not know the defense. Slow defenses have fewer images.",
        "Brackets are 95 % Wilson intervals. Defenses that wrap the network output no image, and are left out.",
    )


def attenuation(rows: pd.DataFrame) -> str:
    """Under the rows of `attenuation.table`."""
    first, noise = rows.iloc[0], rows.change.str.startswith("noise")
    keys = ", ".join(f"{row['recipe']} (λ = {row['λ']:g})" for row in rows.drop_duplicates("λ").to_dict("records"))
    attacks = f"{_all(rows.change[~noise])}: made on the undefended network. " if (~noise).any() else ""
    return lines(
        "What T leaves of a perturbation, and of the image.",
        f"{in_markdown(first.data)}, {first.pixels} pixels, n = {first.n}. {attacks}{_all(rows.change[noise])}: "
        "random noise.",
        "Share left is ‖T(x_adv) − T(x)‖ / ‖x_adv − x‖; low-pass share is the part of the change's energy that T does "
        f"not code; PSNR is to x. Brackets are 95 % intervals of the mean. Recipes: {keys}.",
    )


def threat_models(pairs: Iterable[tuple[str, str]]) -> str:
    """Each threat model of some rows, with its words, from pairs of knowledge and defense."""
    found = {ThreatModel.of(*pair) for pair in pairs} - {ThreatModel.NOBODY}
    named = (f"{model.label}: {model.words}" for model in ThreatModel if model in found)
    return f"Threat models: {'; '.join(named)}." if found else ""


def _all(values: pd.Series) -> str:
    return ", ".join(sorted(set(values)))
