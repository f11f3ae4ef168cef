"""Rows as `causes.rows` makes them, of readings whose distance to the paper is known."""

from labkit.experiments import published_numbers

import pandas as pd

FAULT = "training mode (TrainingMode)"


def frame(**shares):
    """Readings that keep so much of the paper's relative robust accuracy, in all cells and at one size more."""
    printed, lines = published_numbers.table("1").loc[["No Defense", "STL"]], []
    names = dict(zip(published_numbers.table("1"), published_numbers.table("1_released"), strict=True))
    for name, share in shares.items():
        for defense, values in printed.iterrows():
            cells = {names[a]: v / values.Clean for a, v in values.items()} | {"FGSM-20/255": 0.2}
            for attack, kept in cells.items():
                accuracy = 0.8 * (1 if attack == "Clean" else share * kept)
                label = attack + " (saved as JPEG)" * (name == "jpeg" and attack != "Clean")
                told = {"defense": defense, "attack": label, "accuracy": accuracy, "n": 1000, "hypothesis": name}
                told |= {"low": accuracy - 0.02, "high": accuracy + 0.02, "fault": FAULT * (name == "faulty")}
                told |= {"recipe": f"{name} {defense} {attack}"}
                lines.append({**told, "data": "fashion, 32×32", "classifier": "vgg16 ×0.25"})
    return pd.DataFrame(lines)
