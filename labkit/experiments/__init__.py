"""Experiments: which cases make which table or figure, and what they will cost. Rows only, no words.

Knows     the paper's tables (`paper_tables`), its numbers (`published_numbers`), what may have made them (`causes`),
          the competing defenses (`baselines`), what each choice costs and buys (`ablations`), what T and its clusters
          do (`attenuation`, `cluster_stability`), attacks by size and steps (`attack_curves`), how solvers compare
          (`solvers`), what holds and what is certain (`holding`), and how long all of it takes (`cost_estimate`)
Comes in  a profile and a workbench
Goes out  cases, and data frames of what was measured
"""

__all__ = [
    "ablations", "attack_curves", "attenuation", "baselines", "causes", "cluster_stability", "cost_estimate",
    "holding", "paper_tables", "published_numbers", "solvers",
]  # fmt: skip
