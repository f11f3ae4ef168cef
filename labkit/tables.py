"""Tables: tidy rows pivoted for reading, beside what the paper printed, with captions that say what was measured."""

from pathlib import Path

import pandas as pd

from labkit import paper, threat

_KNOWN = "attacker knows the defense"
_ALL = "right under all of these"


def beside_paper(rows: pd.DataFrame, table: str = "1") -> pd.DataFrame:
    """Our accuracies above the paper's: one line per defense and attacker, one column per attack.

    rows   from `experiment.run`; those of vanilla or of retrained networks are chosen to match the table's setting
    table  a name of `paper.names()`

    Our cells read `accuracy [95 % interval]`; the paper's read as printed, or "not reported".
    """
    printed = paper.table(table)
    retrained = printed.attrs["setting"].startswith("retrained")
    chosen = rows[(rows.retrained == retrained) | (rows.defense == "No Defense")]
    attacks = list(dict.fromkeys(chosen.attack))
    lines = []
    for (defense, knowledge), group in _by_attacker(chosen):
        cells = {row.attack: cell(row) for row in group.itertuples()}
        lines.append({"source": "ours", "defense": defense, "attacker has": threat.SHORT[knowledge], **cells})
    for defense in dict.fromkeys(chosen.defense):
        if defense in printed.index:
            values = {a: f"{printed.loc[defense, a]:.4f}" if a in printed else "not reported" for a in attacks}
            lines.append({"source": f"paper, Table {table}", "defense": defense, "attacker has": "not said", **values})
    return pd.DataFrame(lines, columns=["source", "defense", "attacker has", *attacks]).fillna("")


def rivals(rows: pd.DataFrame, worst: pd.DataFrame, table: str) -> pd.DataFrame:
    """One line per defense: n, each attack by someone who does not know it, the strongest by someone who does, and all.

    rows   from `experiment.run(rivals.cases(…))`, and `worst` from `experiment.worst` of the same
    table  the paper's, whose lines stand below ours, for the defenses that it has
    """
    least = worst.set_index("defense")
    printed, lines = paper.table(table), []
    blind = rows[~rows.knowledge.isin(threat.AWARE)]
    attacks = list(dict.fromkeys(blind.attack))
    for (defense, n), mine in blind.groupby(["defense", "n"], sort=False):
        cells = {row.attack: cell(row) for row in mine.itertuples()}
        aware = rows[(rows.defense == defense) & rows.knowledge.isin(threat.AWARE)]
        known = {
            f"{row.attack}, {_KNOWN}": f"{cell(row)} ({threat.SHORT[row.knowledge]})" for row in aware.itertuples()
        }
        known[_ALL] = cell(least.loc[defense])
        lines.append({"source": "ours", "defense": defense, "n": f"{n:,}", **cells, **known})
    for defense in dict.fromkeys(blind.defense):
        if defense in printed.index:
            values = {a: f"{printed.loc[defense, a]:.4f}" if a in printed else "not reported" for a in attacks}
            lines.append({"source": f"paper, Table {table}", "defense": defense, "n": "not said", **values})
    columns = dict.fromkeys(name for line in lines for name in line if name != _ALL)
    return pd.DataFrame(lines, columns=[*columns, _ALL]).fillna("")


def retention(rows: pd.DataFrame, table: str = "1") -> pd.DataFrame:
    """Accuracy under attack as a share of the same line's clean accuracy: ours and the paper's.

    A defense whose undefended network hardly notices an attack keeps much of nothing: compare with No Defense.
    """
    printed = paper.table(table)
    retrained = printed.attrs["setting"].startswith("retrained")
    chosen = rows[(rows.retrained == retrained) | (rows.defense == "No Defense")]
    lines = []
    for (defense, knowledge), group in _by_attacker(chosen):
        clean = group[group.attack == "Clean"].accuracy.iloc[0]
        for row in group[group.attack != "Clean"].itertuples():
            both = row.attack in printed and defense in printed.index
            theirs = printed.loc[defense, row.attack] / printed.loc[defense, "Clean"] if both else None
            lines.append(
                {
                    "defense": defense,
                    "attack": row.attack,
                    "attacker has": threat.SHORT[knowledge],
                    "ours": f"{row.accuracy / clean:.2f}" if clean else "–",
                    f"paper, Table {table}": f"{theirs:.2f}" if both else "not reported",
                }
            )
    return pd.DataFrame(lines)


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
        "Brackets: 95 % Wilson intervals; the recipe hash behind each number stands in rows.csv. "
        f"Attackers: {attackers}. {sized} "
        f"The paper's lines are {printed['dataset']}, {printed['classifier']} at {printed['resolution']} pixels: other "
        "images and another network, so read each block against its own “No Defense” line. The paper does not say "
        f"which attacker its retrained rows faced. {checks}"
    ).rstrip()


def view(frame: pd.DataFrame):
    """A table for a notebook: no index, numbers to three digits."""
    return frame.style.hide(axis="index").format(precision=3, na_rep="–")


def save(frame: pd.DataFrame, out: str | Path, name: str, caption: str = "") -> None:
    """Write a table as CSV and as Markdown into the folder `out`; nothing when `out` is empty."""
    if not str(out):
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(
        frame.to_markdown(index=False, missingval="–") + (f"\n\n{caption}\n" if caption else "\n")
    )


def _by_attacker(rows: pd.DataFrame):
    """Rows grouped by defense and attacker in order of first appearance; every group has the clean row as well."""
    clean = rows[rows.attack == "Clean"]
    for (defense, knowledge), group in rows[rows.attack != "Clean"].groupby(["defense", "knowledge"], sort=False):
        yield (defense, knowledge), pd.concat([clean[clean.defense == defense], group])


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
