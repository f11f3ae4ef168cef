"""Reporting: the only room that speaks. Rows become tables, verdicts, figures and pages.

Knows     how rows are laid out (`tables`, `captions`), which claim they answer (`questions`), with which verdict
          (`verdicts`, `findings`), how they are drawn (`figures`, `interactive`, `pictures`), written beside the
          paper's (`table_page`), and how notebooks run into a report (`report`)
Comes in  data frames of `experiments`, images, notebooks
Goes out  Markdown, CSV, PNG, HTML pages that need no network
"""

__all__ = [
    "captions", "figures", "findings", "interactive", "pictures", "questions", "report", "table_page", "tables",
    "verdicts",
]  # fmt: skip
