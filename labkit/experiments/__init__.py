"""Experiments: which cases make which table or figure, and what they will cost. Rows only, no words.

Knows     the paper's tables (`paper_tables`) and its numbers (`published_numbers`), the competing defenses
          (`baselines`), what each choice costs and buys (`ablations`, `psnr_accuracy`), what T and its clusters do
          (`attenuation`, `cluster_stability`), attacks by size and steps (`attack_curves`), how solvers compare
          (`solvers`), and how long all of it takes (`cost_estimate`)
Comes in  a profile and a workbench
Goes out  cases, and data frames of what was measured
"""

__all__ = [
    "ablations", "attack_curves", "attenuation", "baselines", "cluster_stability", "cost_estimate", "paper_tables",
    "psnr_accuracy", "published_numbers", "solvers",
]  # fmt: skip
