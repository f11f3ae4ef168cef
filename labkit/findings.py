"""What measured tables say, in sentences made from their cells, and the page that shows them."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd

from labkit import paper, provenance, quality, repeats, resolutions, rivals, shrinkage, tables, threat, tradeoff
from labkit.apart import Point, moved, told
from labkit.errors import InputError
from labkit.paths import typed

_MAIN = ("1", "2a", "2b", "5", "6a", "6b", "7", "3", "8a", "8b", "4")  # the first that is there is shown in full
_VANILLA = {"1": "5", "2a": "6a", "2b": "6b"}
_STL = ("STL", "STL (cluster)")
# What notebooks leave in a data set's folder; of 06 rows and picture of each sweep, and where the paper has it.
_PROJECTION, _DEFENSES, _TRADEOFF = "03_projection", "05_defense_tables", "06_tradeoff"
_SWEEPS = {
    "lam": ("lambda_rows.csv", "headline.png", "λ (the paper's Figure 5)"),
    "K": ("K_rows.csv", "K.png", "K (its Figure 7 a)"),
    "S": ("S_rows.csv", "S.png", "S (its Figure 7 b)"),
    "M": ("M_rows.csv", "M.png", "M (of which it shows no curve)"),
}
_COUNTED = "How often the 95 % interval of a difference lies above 0 (better) or below it (worse)"
_MARK = "<!-- what follows is made by `python -m labkit findings` -->"


def findings(cells: pd.DataFrame, table: str) -> list[str]:
    """Sentences on one table (`tables.measured`), each naming the cells that it rests on: Markdown."""
    attacks = [attack for attack in dict.fromkeys(cells.attack) if attack != "Clean"]
    lines = [_strength(cells, table, attacks)]
    lines += [line for name in _STL if (line := _kept(cells, table, name, attacks))]
    lines += _leaking(cells, table, attacks)
    lines += [line for name in _STL if (line := _worst(cells, table, name, attacks))]
    return lines


def short(cells: pd.DataFrame, name: str = "STL (cluster)") -> str:
    """One sentence on a table: what a defense keeps, by what the attacker knew, and what the paper prints; or none."""

    def ends(part: pd.DataFrame) -> list[str]:
        part = part.sort_values("accuracy", kind="stable")
        return list(dict.fromkeys(f"{told(_at(row))} ({row.attack})" for row in part.iloc[[0, -1]].itertuples()))

    mine = cells[(cells.defense == name) & (cells.attack != "Clean")]
    blind, worst, theirs = (mine[mine.block == block] for block in ("ours", "worst", "paper"))
    if blind.empty or worst.empty or theirs.empty:
        return ""
    known = blind.groupby("knowledge", sort=False)
    words = [f"attacker has {threat.SHORT[who]}: {' to '.join(ends(part))}" for who, part in known]
    printed = dict.fromkeys(f"{share:.4g}" for share in (theirs.accuracy.min(), theirs.accuracy.max()))
    return (
        f"**In short**, {name} is right on these shares of attacked images: {'; '.join(words)}. The paper prints "
        f"{' to '.join(printed)}. When all attackers of one size try, among them "
        f"those who know the defense, at most {ends(worst)[-1]} are left."
    )


def retraining(retrained: pd.DataFrame, vanilla: pd.DataFrame, names: tuple[str, str]) -> list[str]:
    """Whether retraining helps each STL, by what the attacker knew: cells of two tables.

    Those who do not know T attack the vanilla network by its weights. The same attacked images are what one who owns an
    undefended copy brings against the retrained one; another has the retrained one's weights.
    """
    lines = []
    for name in _STL:
        clean = [_point(cells, block="ours", defense=name, attack="Clean") for cells in (vanilla, retrained)]
        for who, first, then in (
            ("on the same attacked images, made on the undefended network", "classifier", "transfer"),
            ("against one who has the weights of the judged network, not T", "classifier", "classifier"),
            ("in the worst case", "", ""),
        ):
            words = [_change(*clean, "Clean")] if who.startswith("on the same") and None not in clean else []
            block = "ours" if first else "worst"
            for attack in dict.fromkeys(retrained.attack):
                pair = [
                    _point(cells, block=block, knowledge=knowledge, defense=name, attack=attack)
                    for cells, knowledge in ((vanilla, first), (retrained, then))
                ]
                if attack != "Clean" and None not in pair:
                    words.append(_change(*pair, attack))
            if words:
                cells = f"(Table {names[1]} to Table {names[0]})"
                lines.append(f"**Does retraining help {name}**, {who}? {'; '.join(words)} {cells}.")
    return lines


def _change(before: Point, after: Point, what: str) -> str:
    verdict = {1: "helps", -1: "hurts", 0: "not told apart"}[moved(before, after)]
    return f"{what}: {told(before)} to {told(after)} ({verdict})"


def stability(votes: pd.DataFrame, table: str) -> str:
    """Whether attacked images are voted to the cluster of their clean twins, as the paper's Section 3.4 has it.

    votes  from `clusters.stability`, where each attack stands before noise of its size
    """
    points = [Point(*row) for row in votes[["attack", "same cluster", "low", "high"]].itertuples(index=False)]
    words = []
    for attacked, noise in zip(points[::2], points[1::2], strict=True):
        verdict = {1: "noise as large moves fewer", -1: "noise as large moves more", 0: "as with noise as large"}
        words.append(f"{attacked.at} {told(attacked)} ({verdict[moved(attacked, noise)]})")
    least = min(points[::2], key=lambda point: point.low)
    holds = "holds" if least.low > 0.5 else "does not hold everywhere"
    return (
        f"**The paper's “usually live closely” {holds}**: share of attacked images that are voted to the cluster of "
        f"their clean twins: {'; '.join(words)} (Table {table}, votes)."
    )


def page(folder: Path, link: str = "") -> str:
    """The page over all `table_*.csv` in the folders below `folder`: figure, main table, findings. Markdown.

    link  what stands before the way to a file from `folder`, such as "lab/"

    Raises InputError when there is no table.
    """
    found: dict[Path, dict[str, pd.DataFrame]] = {}
    for file in sorted({*folder.rglob("table_*.json")} - {*folder.rglob("*_recipes.json")}):
        name = file.stem.removeprefix("table_")
        cells = pd.read_csv(file.with_suffix(".csv")).fillna({"knowledge": ""})
        found.setdefault(file.parent, {})[name] = cells
    if not found:
        raise InputError(f"{folder} holds no measured table; make one with `labkit table 5 --out {folder / 'mine'}`")
    parts = []
    for place, measured in found.items():
        parts += _section(place.relative_to(folder).as_posix(), place, measured, link)
    for file in sorted(folder.rglob(f"{_PROJECTION}/shrinkage.csv")):
        parts += _projected(file.parents[1].relative_to(folder).as_posix(), file)
    return "\n\n".join(parts) + "\n"


def write(folder: Path, out: Path) -> None:
    """Put `page` of a folder into a file, whose own words before the mark stay as they are.

    Raises InputError as `page` does.
    """
    if typed(out).is_dir():
        raise InputError(f"{out} is a folder; --out names the file to write")
    told = page(typed(folder), f"{folder.name}/")
    before = out.read_text().partition(_MARK)[0] if out.is_file() else ""
    provenance.write(out, f"{before}{_MARK}\n\n{told}".encode())


def _section(title: str, place: Path, measured: dict[str, pd.DataFrame], link: str) -> list[str]:
    main = next(name for name in _MAIN if name in measured)
    told = json.loads((place / f"table_{main}.json").read_text())
    printed = paper.table(main).attrs
    parts = [
        f"## {title}: the paper's Table {main} ({printed['setting']})",
        *filter(None, [short(measured[main])]),
        f"![Accuracy of every defense under every attack of Table {main}: ours, our worst case, the paper's]"
        f"({link}{title}/table_{main}.png)",
        tables.blocks(measured[main], main).to_markdown(index=False),
        f"Captions, attackers, retention and rankings stand on [the table's page]({link}{title}/table_{main}.md); "
        f"made by `{told['command']}`.",
    ]
    others = [f"[{name}]({link}{title}/table_{name}.md)" for name in measured if name != main]
    if others:
        parts.append(f"Other tables: {', '.join(others)}.")
    for name, cells in measured.items():
        lines, votes = findings(cells, name), place / f"table_{name}_votes.csv"
        if votes.is_file():
            lines.append(stability(pd.read_csv(votes), name))
        parts += [f"### What Table {name} says", *filter(None, [name != main and short(cells)])]
        parts.append("\n".join(f"- {line}" for line in lines))
        if len(counted := beaten(cells)):
            parts += [f"{_COUNTED} (Table {name}, its attacks):", counted.to_markdown(index=False)]
    for name, other in _VANILLA.items():
        if name in measured and other in measured:
            lines = retraining(measured[name], measured[other], (name, other))
            parts += ["### What retraining is worth", "\n".join(f"- {line}" for line in lines)]
    parts += _resolutions(place, measured)
    parts += _compared(place / _DEFENSES, f"{link}{title}/{_DEFENSES}/")
    parts += _swept(place / _TRADEOFF, f"{link}{title}/{_TRADEOFF}/")
    twice = repeats.repeats([*sorted(place.glob("*_rows.csv")), *sorted(place.glob("*/*rows.csv"))])
    return [*parts, "### What was measured twice", repeats.reading(twice)] if len(twice) else parts


def _resolutions(place: Path, measured: dict[str, pd.DataFrame]) -> list[str]:
    """What becomes of a defense as images grow, where one setting was measured at several resolutions."""
    settings: dict[str, list[str]] = {}
    for name in measured:
        settings.setdefault(paper.table(name).attrs["setting"], []).append(name)
    parts = []
    for setting, names in settings.items():
        if len(names) == 1:
            continue
        labels = {name: pd.read_csv(place / f"table_{name}_rows.csv").data.iloc[0] for name in names}
        pixels = {int(label.rpartition("×")[2]): name for name, label in labels.items()}
        if len(pixels) > 1:
            cells = {side: measured[pixels[side]] for side in sorted(pixels)}
            parts += [
                f"### Does it hold at every resolution? ({setting})",
                f"Of {', '.join(f'Table {pixels[side]} at {side} pixels' for side in cells)}; “keeps” is the share of "
                "the same line's clean accuracy.",
                resolutions.view(cells).to_markdown(index=False),
                resolutions.reading(cells),
            ]
    return parts


def _compared(folder: Path, link: str) -> list[str]:
    """Every competitor beside STL, and how to make that; nothing where it was not measured."""
    file = folder / "competitors_rows.csv"
    if not file.is_file():
        return []
    return [
        "### The competitors, under the same attacks",
        f"![Accuracy of every defense, clean, attacked, and attacked by one who knows it]({link}competitors.png)",
        f"Every attack, the n of each line and the captions stand in [the notebook's table]({link}competitors.md). Two "
        "are told apart where their 95 % Wilson intervals do not meet.",
        rivals.reading(pd.read_csv(file)),
        f"All of notebook 05 is made by `{_command(folder, '05')}`.",
    ]


def _swept(folder: Path, link: str) -> list[str]:
    """The trade-off's figures, what its rows say, and how to make them; nothing where it was not measured."""
    parts = []
    for what, (file, picture, name) in _SWEEPS.items():
        if (folder / file).is_file():
            rows = pd.read_csv(folder / file)
            shown = f"![Accuracy and PSNR for every value]({link}{picture})"
            parts += [f"### What is bought by {name}", shown, tradeoff.caption(rows), tradeoff.reading(rows, what)]
    if (folder / "map.csv").is_file():
        found = pd.read_csv(folder / "map.csv")
        shown = f"![PSNR of T(x_adv) against the interval from attacked to clean accuracy, by defense]({link}map.png)"
        parts += [
            "### Where every defense lies on the paper's Figure 6",
            shown,
            quality.CAPTION,
            quality.reading(found),
        ]
    if (folder / "silent_rows.csv").is_file():
        rows = pd.read_csv(folder / "silent_rows.csv")
        rows["value"] = rows.value.map(_setting)
        parts += ["### What is bought where the paper is silent", tradeoff.caption(rows)]
        parts.append("\n".join(tradeoff.reading(rows, what) for what in dict.fromkeys(rows.what)))
    if parts:
        parts.append(f"All of notebook 06 (λ to the silent choices) is made by `{_command(folder, '06')}`.")
    return parts


def _projected(title: str, file: Path) -> list[str]:
    """What notebook 03 has measured of T alone, without a network behind it."""
    rows = pd.read_csv(file, dtype={"recipe": str})
    return [
        f"## {title}: what T leaves of images of {rows.pixels[0]} pixels, and of a perturbation",
        shrinkage.view(rows).to_markdown(index=False),
        shrinkage.caption(rows),
        shrinkage.reading(rows),
        f"Made by `{_command(file.parent, '03')}`.",
    ]


def _command(folder: Path, notebook: str) -> str:
    told = json.loads((folder / "manifest.json").read_text())
    what = f"--profile {told['profile']} --dataset {told['dataset']}"
    sized = f" --resolution {told['resolution']}" if told["resolution"] else ""
    return f"python -m labkit report --notebooks {notebook} {what}{sized} --out DIR"


def _setting(word: str | float) -> str | float:
    """A value as it was before it came into one column with others, some of which are words."""
    try:
        return float(word)
    except ValueError:
        return word


def _strength(cells: pd.DataFrame, table: str, attacks: list[str]) -> str:
    """Our attacks beside the paper's, by what they leave the undefended network."""
    words = []
    for attack in attacks:
        mine = _point(cells, block="ours", defense="No Defense", attack=attack)
        theirs = _number(cells, "No Defense", attack)
        if mine is None:
            continue
        verdict = "the paper gives none"
        if theirs is not None:
            hard = "ours is the stronger" if theirs > mine.high else "the paper's is" if theirs < mine.low else "alike"
            verdict = f"{theirs:.4g} in the paper: {hard}"
        words.append(f"{attack} leaves {told(mine)} ({verdict})")
    return f"**How hard the attacks are**, on the undefended network: {'; '.join(words)} (Table {table}, No Defense)."


def _kept(cells: pd.DataFrame, table: str, name: str, attacks: list[str]) -> str:
    """What STL keeps of its clean accuracy beside what the paper's does, by attackers who do not know it."""
    clean = _point(cells, block="ours", defense=name, attack="Clean")
    theirs = _number(cells, name, "Clean")
    if clean is None or not clean.number or theirs is None:
        return ""
    own, shares, words = (cells.block == "ours") & (cells.defense == name), tables.kept(cells), []
    for attack in attacks:
        mine = [f"{share:.2f}" for share in shares[own & (cells.attack == attack)]]
        printed = _number(cells, name, attack)
        if mine and printed is not None:
            words.append(f"{attack} {' and '.join(mine)} (paper {printed / theirs:.2f})")
    known = dict.fromkeys(cells[own].knowledge)
    who = " and ".join({"transfer": "an undefended copy", "classifier": "the weights"}.get(k, k) for k in known)
    return (
        f"**Of its clean accuracy {name} keeps**, when the attacker has {who}: {'; '.join(words)} "
        f"(Table {table}, {name}, each cell divided by Clean)."
    )


def _leaking(cells: pd.DataFrame, table: str, attacks: list[str]) -> list[str]:
    """Who is right more often on attacked images than on clean ones: the attack must have told them the class."""
    lines = []
    for name in dict.fromkeys(cells.defense):
        clean, words = _point(cells, block="ours", defense=name, attack="Clean"), []
        for attack in attacks:
            attacked = _point(cells, block="ours", defense=name, attack=attack)
            if clean and attacked and moved(clean, attacked) > 0:
                least = _point(cells, block="worst", defense=name, attack=attack)
                worst = f", and {told(least)} under all attackers of this size" if least else ""
                words.append(f"{told(attacked)} under {attack}{worst}")
        if words:
            lines.append(
                f"**{name} is right more often on attacked images than on clean ones** ({told(clean)}): "
                f"{'; '.join(words)}. So it reads the class off what this attack has done (“label leaking”, Kurakin et "
                f"al. 2017), and that number says nothing of how robust it is (Table {table}, {name})."
            )
    return lines


def beaten(cells: pd.DataFrame) -> pd.DataFrame:
    """How often STL is better and worse than each other defense, a column for each attacker: `tables.ranking` counted.

    The last line says whether stratification helps.
    """
    ranking = tables.ranking(cells).drop(columns="Clean", errors="ignore")
    attackers, lines = list(dict.fromkeys(ranking["attacker has"])), []
    for difference, part in ranking.groupby("difference", sort=False):
        stl, other = difference.split(" − ")
        line = {"question": "Does stratification help?" if (stl, other) == _STL[::-1] else f"Does {stl} beat {other}?"}
        for row in part.to_dict("records"):
            said = [row[a] for a in row if a not in ("difference", "attacker has") and row[a]]
            count = Counter(s.rpartition(" ")[2] for s in said)
            line[f"attacker has {row['attacker has']}"] = (
                f"better {count['better']}, worse {count['worse']}, of {len(said)}" if said else "–"
            )
        lines.append(line)
    return pd.DataFrame(lines, columns=["question", *(f"attacker has {who}" for who in attackers)]).fillna("–")


def _worst(cells: pd.DataFrame, table: str, name: str, attacks: list[str]) -> str:
    """What is left to STL and to the undefended network when every attacker of a size has tried."""
    words = []
    for attack in attacks:
        mine, bare = (_point(cells, block="worst", defense=one, attack=attack) for one in (name, "No Defense"))
        if mine is None or bare is None:
            continue
        verdict = {1: "more than", -1: "less than", 0: "not told apart from"}[moved(bare, mine)]
        words.append(f"{attack.rpartition('-')[2]}: {told(mine)} ({verdict} the {told(bare)} without)")
    words = list(dict.fromkeys(words))  # several attacks are of one size
    if not words:
        return ""
    return f"**Against whoever knows all, {name} keeps**, by size: {'; '.join(words)} (Table {table}, worst case)."


def _point(cells: pd.DataFrame, **where) -> Point | None:
    for column, value in where.items():
        cells = cells[cells[column] == value]
    return next(map(_at, cells.itertuples()), None)


def _at(row) -> Point:
    return Point(row.n, row.accuracy, row.low, row.high)


def _number(cells: pd.DataFrame, defense: str, attack: str) -> float | None:
    found = cells[(cells.block == "paper") & (cells.defense == defense) & (cells.attack == attack)].accuracy
    return float(found.iloc[0]) if len(found) else None
