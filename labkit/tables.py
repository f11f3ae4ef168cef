"""Tables: tidy rows pivoted for reading, beside what the paper printed, with captions that say what was measured."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from labkit import paper, threat
from labkit.apart import Point, difference
from labkit.recipes import canonical

_KNOWN = "attacker knows the defense"
_ALL = "right under all of these"


def beside_paper(rows: pd.DataFrame, table: str = "1") -> pd.DataFrame:
    """Our accuracies above the paper's: one line per defense and attacker, one column per attack (`blocks`).

    rows   from `experiment.run`; those of vanilla or of retrained networks are chosen to match the table's setting
    table  a name of `paper.names()`
    """
    return blocks(alike(rows, table), table)


def alike(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """`measured`, of the networks that are as the table's setting has them: vanilla or retrained, and undefended."""
    retrained = paper.table(table).attrs["setting"].startswith("retrained")
    return measured(rows[(rows.retrained == retrained) | (rows.defense == "No Defense")], pd.DataFrame(), table)


def measured(rows: pd.DataFrame, worst: pd.DataFrame, table: str) -> pd.DataFrame:
    """A table of the paper in three blocks, one line per cell: ours, ours in the worst case, and the paper's.

    rows   from `experiment.run(asked.blind)`, with `asked` from `replicate.table`
    worst  from `replicate.worst(asked.aware, …)`: the share of images that stay right under every attack of a column's
           size, by attackers who know the defense and by those who do not

    Columns: block ("ours", "worst", "paper"), defense, knowledge, n, attack, accuracy, low, high; the paper's lines
    have no n, no interval, and only the attacks that are in `rows`. Lines of what nobody attacked are left out.
    """
    printed, lines = paper.table(table), []
    attacks = rows.drop_duplicates("attack").set_index("attack").budget
    for (defense, knowledge), group in _by_attacker(rows):
        same = {"block": "ours", "defense": defense, "knowledge": knowledge}
        lines += [{**same, **row[["n", "attack", "accuracy", "low", "high"]]} for _, row in group.iterrows()]
    for row in worst.itertuples():
        same = {"block": "worst", "defense": row.defense, "knowledge": "", "n": row.n}
        numbers = {"accuracy": row.accuracy, "low": row.low, "high": row.high}
        lines += [{**same, "attack": a, **numbers} for a, size in attacks.items() if size == row.size]
    for defense, values in printed.iterrows():
        same = {"block": "paper", "defense": defense, "knowledge": "identity" if table == "4" else ""}
        lines += [{**same, "attack": a, "accuracy": values[a]} for a in attacks.index if pd.notna(values.get(a))]
    return pd.DataFrame(lines, columns=["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"])


def blocks(cells: pd.DataFrame, table: str) -> pd.DataFrame:
    """`measured` as it is read: a line per block, defense and attacker, a column per attack."""
    names = {"ours": "ours", "worst": "ours, worst case", "paper": f"paper, Table {table}"}
    unknown = {"worst": "anything", "paper": "not said"}
    lines, attacks = [], list(dict.fromkeys(cells.attack))
    for (block, defense, knowledge), group in cells.groupby(["block", "defense", "knowledge"], sort=False):
        counts = group.n.dropna()
        attacker = threat.SHORT[knowledge] if knowledge else unknown[block]
        n = f"{int(counts.iloc[0]):,}" if len(counts) else "not said"
        told = {
            row.attack: f"{row.accuracy:.4g}" if block == "paper" else cell(row) + _fewer(row.n, counts.iloc[0])
            for row in group.itertuples()
        }
        missing = dict.fromkeys(attacks, "not reported" if block == "paper" else "")
        lines.append({"block": names[block], "defense": defense, "attacker has": attacker, "n": n, **missing, **told})
    return pd.DataFrame(lines, columns=["block", "defense", "attacker has", "n", *attacks])


def ranking(cells: pd.DataFrame) -> pd.DataFrame:
    """By how much STL beats every other defense, attack by attack: differences with Newcombe's 95 % intervals.

    cells  from `measured`; its block "ours" is compared between attackers of one knowledge, "worst" with itself

    The last lines, STL (cluster) against STL, say whether stratification helps. Where the interval is all above 0 the
    cell says "better", where all below "worse". Both were judged on the same images or on some of them, which an
    interval for independent ones makes light of: it is wider than need be.
    """
    own = cells[cells.block != "paper"]
    points = {
        (r.block, r.knowledge, r.defense, r.attack): Point(r.n, r.accuracy, r.low, r.high) for r in own.itertuples()
    }
    attacks, names = list(dict.fromkeys(own.attack)), list(dict.fromkeys(own.defense))
    pairs = [(stl, other) for stl in ("STL", "STL (cluster)") for other in names if not other.startswith("STL")]
    lines = []
    for block, knowledge in dict.fromkeys(zip(own.block, own.knowledge, strict=True)):
        for stl, other in [*pairs, ("STL (cluster)", "STL")]:
            found = {}
            for attack in attacks:
                a = points.get((block, knowledge, stl, attack))
                # Who has no T to know of is attacked in one way only.
                b = points.get((block, knowledge, other, attack)) or points.get((block, "classifier", other, attack))
                if a and b:
                    gap = difference(a, b)
                    verdict = " better" if gap.low > 0 else " worse" if gap.high < 0 else ""
                    found[attack] = f"{gap.number:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]{verdict}"
            if found:
                attacker = threat.SHORT[knowledge] if knowledge else "anything"
                lines.append({"difference": f"{stl} − {other}", "attacker has": attacker, **found})
    return pd.DataFrame(lines, columns=["difference", "attacker has", *attacks]).fillna("")


def knowing(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `rivals.cases`, those of attackers who know all that there is to know.

    A defense that no row's attacker reckons with lies in its network, and whoever has the weights knows it.
    """
    knows = rows.knowledge.isin(threat.AWARE)
    return rows[knows | ((rows.knowledge == "classifier") & ~rows.defense.isin(rows.defense[knows]))]


def how(knowledge: str) -> str:
    """What an attacker of `knowing` has, in a word or two."""
    return threat.SHORT[knowledge] if knowledge in threat.AWARE else "all, the weights"


def rivals(rows: pd.DataFrame, worst: pd.DataFrame, table: str) -> pd.DataFrame:
    """One line per defense: n, each attack by someone who does not know it, the strongest by someone who does, and all.

    A network that is its own defense is known to whoever has its weights, so all of its attackers know it.

    rows   from `experiment.run(rivals.cases(…))`, and `worst` from `experiment.worst` of the same
    table  the paper's, whose lines stand below ours, for the defenses that it has
    """
    least = worst.set_index("defense")
    printed, lines = paper.table(table), []
    blind = rows[~rows.knowledge.isin(threat.AWARE)]
    attacks, hardest = list(dict.fromkeys(blind.attack)), rows.attack[rows.knowledge.isin(threat.AWARE)].unique()
    aware = knowing(rows)
    for (defense, n), mine in blind.groupby(["defense", "n"], sort=False):
        cells = {row.attack: cell(row) for row in mine.itertuples()}
        part = aware[(aware.defense == defense) & aware.attack.isin(hardest) & (defense != "No Defense")]
        known = {f"{row.attack}, {_KNOWN}": f"{cell(row)} ({how(row.knowledge)})" for row in part.itertuples()}
        known[_ALL] = cell(least.loc[defense])
        lines.append({"source": "ours", "defense": defense, "n": f"{n:,}", **cells, **known})
    for defense in dict.fromkeys(blind.defense):
        if defense in printed.index:
            values = {a: f"{printed.loc[defense, a]:.4f}" if a in printed else "not reported" for a in attacks}
            lines.append({"source": f"paper, Table {table}", "defense": defense, "n": "not said", **values})
    columns = dict.fromkeys(name for line in lines for name in line if name != _ALL)
    return pd.DataFrame(lines, columns=[*columns, _ALL]).fillna("")


def retention(cells: pd.DataFrame, table: str) -> pd.DataFrame:
    """Accuracy under attack as a share of the same line's clean accuracy, for every cell of `measured`.

    A defense whose undefended network hardly notices an attack keeps much of nothing: compare with No Defense.
    """
    part = cells[cells.attack != "Clean"].assign(kept=kept(cells))
    lines = blocks(part, table).replace("", "–")
    for (_, group), at in zip(part.groupby(["block", "defense", "knowledge"], sort=False), lines.index, strict=True):
        for row in group.itertuples():
            lines.loc[at, row.attack] = f"{row.kept:.2f}" if pd.notna(row.kept) else "–"
    return lines.drop(columns="n")


def kept(cells: pd.DataFrame) -> pd.Series:
    """Of every cell of `measured`, its share of the same defense's clean accuracy on the same images; NaN without one.

    An attack that was made on fewer images than the others is divided by the clean accuracy on these.
    """
    places = pd.Series(list(zip(cells.block == "paper", cells.defense, cells.n.fillna(0), strict=True)), cells.index)
    clean = cells.attack == "Clean"
    whole = dict(zip(places[clean], cells.accuracy[clean], strict=True))
    return cells.accuracy / places.map(lambda place: whole.get(place) or math.nan)


def adaptive(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per attack and attacker, one column per defense, and the paper's Table 4 below (BPDA, L∞ 0.031)."""
    defenses, lines = list(dict.fromkeys(rows.defense)), []
    for (attack, knowledge), group in rows.groupby(["attack", "knowledge"], sort=False):
        cells = {row.defense: cell(row) for row in group.itertuples()}
        lines.append({"source": "ours", "attack": attack, "attacker has": threat.SHORT[knowledge], **cells})
    printed = paper.table("4").iloc[:, -1]
    theirs = {name: f"{printed[name]:.2f}" for name in defenses if name in printed.index}
    bpda = {"source": "paper, Table 4", "attack": "BPDA, L∞ 0.031", "attacker has": threat.SHORT["identity"]}
    lines.append({**bpda, **theirs})
    return pd.DataFrame(lines, columns=["source", "attack", "attacker has", *defenses]).fillna("")


def _fewer(n: float, usual: float) -> str:
    """What a cell adds whose attack was made on another number of images than the line's."""
    return "" if n == usual else f" (n = {int(n):,})"


def cell(row) -> str:
    """One measured accuracy as a table shows it."""
    return f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]"


def caption(rows: pd.DataFrame, table: str, note: str = "", checks: str = "") -> str:
    """What a reader must know to judge the table: data, n, network, attackers, and how the paper's differ.

    checks  what `checks.verdicts` says of the attacks: whether the numbers can be trusted
    """
    printed = paper.table(table).attrs
    sizes = ", ".join(f"{n:,}" for n in sorted(set(rows.n)))
    known = [k for k in threat.KNOWLEDGE if k in set(rows.knowledge)]
    attackers = "; ".join(f"“{threat.SHORT[k]}”: {threat.KNOWLEDGE[k]}" for k in known)
    sized = "Sizes are relative L2 dissimilarities."
    if rows.attack.str.contains("L∞").any():
        sized = "Sizes are L∞, for pixels in [0, 1]."
    return (
        f"{', '.join(sorted(set(rows.data)))}; n = {sizes} test images; "
        f"{', '.join(sorted(set(rows.classifier)))}. {note} "
        "Brackets: 95 % Wilson intervals; the recipe hash behind each number stands in its file of rows. "
        f"Attackers: {attackers}. {sized} "
        f"The paper's lines are {printed['dataset']}, {printed['classifier']} at {printed['resolution']} pixels: other "
        "images and another network, so read each block against its own “No Defense” line. The paper does not say "
        f"which attacker its retrained rows faced. {checks}"
    ).rstrip()


def view(frame: pd.DataFrame):
    """A table for a notebook: no index, numbers to three digits."""
    return frame.style.hide(axis="index").format(precision=3, na_rep="–")


def save(
    frame: pd.DataFrame, out: str | Path, name: str, caption: str = "", recipes: Mapping[str, Any] | None = None
) -> None:
    """Write a table as CSV and as Markdown into the folder `out`; nothing when `out` is empty.

    recipes  from `experiment.recipes_of`, for a table with recipe hashes; written beside it as NAME_recipes.json
    """
    if not str(out):
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(
        frame.astype(object).where(frame.notna(), None).to_markdown(index=False, missingval="–")
        + (f"\n\n{caption}\n" if caption else "\n")
    )
    if recipes is not None:
        (folder / f"{name}_recipes.json").write_text(listed(recipes))


def listed(recipes: Mapping[str, Any]) -> str:
    """Recipes by their hashes as JSON, one a line: a hash is the start of the SHA-256 of the text after it."""
    lines = ",\n".join(f'"{key}": {canonical(recipe)}' for key, recipe in recipes.items())
    return f"{{\n{lines}\n}}\n"


def _by_attacker(rows: pd.DataFrame):
    """Rows grouped by defense and attacker in order of first appearance; every group has the clean row as well."""
    clean = rows[rows.attack == "Clean"]
    for (defense, knowledge), group in rows[rows.attack != "Clean"].groupby(["defense", "knowledge"], sort=False):
        yield (defense, knowledge), pd.concat([clean[clean.defense == defense], group])
    for defense, group in clean[~clean.defense.isin(rows[rows.attack != "Clean"].defense)].groupby(
        "defense", sort=False
    ):
        yield (defense, "–"), group


def reading(rows: pd.DataFrame) -> str:
    """What the rows say, in sentences made from them: Markdown, one bullet per question."""
    defenses = [name for name in dict.fromkeys(rows.defense) if name != "No Defense"]
    clean = rows[rows.attack == "Clean"].set_index(["defense", "retrained"])
    price = [f"The undefended network is right on {cell(clean.loc[('No Defense', False)])}"]
    for name in defenses:
        price.append(
            f"with {name} in front of it on {cell(clean.loc[(name, False)])}, and retrained on its images on "
            f"{cell(clean.loc[(name, True)])}"
        )
    lines = ["**Price on clean images.** " + "; ".join(price) + "."]
    for attack in dict.fromkeys(rows[rows.attack != "Clean"].attack):
        part = rows[rows.attack == attack]
        bare = part[part.defense == "No Defense"].iloc[0]
        words = [f"**{attack}** (reached: {bare.dissimilarity:.3f}) leaves the undefended network {cell(bare)}"]
        for row in part[part.defense != "No Defense"].itertuples():
            verdict = _verdict(row, bare, "better", "worse")
            kind = "retrained" if row.retrained else "vanilla"
            words.append(f"{row.defense}, {kind}, attacker has {threat.SHORT[row.knowledge]}: {cell(row)} ({verdict})")
        lines.append("; ".join(words) + ".")
    lines += [_retraining(rows, name) for name in defenses]
    blind = rows[rows.knowledge.isin(["transfer", "classifier"])]
    aware = rows[rows.knowledge.isin(threat.AWARE)]
    if len(aware):
        worst = aware.loc[aware.accuracy.idxmin()]
        alike = (blind.attack == worst.attack) & (blind.retrained == worst.retrained) & (blind.defense == worst.defense)
        lines.append(
            f"**What the attacker knew decides.** The same {worst.attack} leaves {worst.defense} "
            f"{blind[alike].accuracy.max():.3f} when its author did not know about T, and {cell(worst)} when it had: "
            f"{threat.SHORT[worst.knowledge]}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _retraining(rows: pd.DataFrame, defense: str) -> str:
    """Whether retraining helps against attackers who do not know T, attack by attack."""
    mine = rows[(rows.defense == defense) & (rows.attack != "Clean")]
    vanilla = mine[~mine.retrained & (mine.knowledge == "classifier")].set_index("attack")
    words = []
    for knowledge in ("transfer", "classifier"):
        again = mine[mine.retrained & (mine.knowledge == knowledge)]
        verdicts = [
            f"{row.attack} {_verdict(row, vanilla.loc[row.attack], 'yes', 'no, it hurts')}"
            for row in again.itertuples()
        ]
        if verdicts:
            words.append(f"attacker has {threat.SHORT[knowledge]}: {', '.join(verdicts)}")
    return f"**Does retraining help {defense}** by more than the intervals? {'; '.join(words)}."


def _verdict(row, other, better: str, worse: str) -> str:
    return better if row.low > other.high else worse if row.high < other.low else "not told apart"
