"""Reporting: the only room that speaks. Rows become tables, verdicts, figures and pages.

Knows     how rows are laid out (`tables`, `captions`), which claim they answer (`questions`, `findings`), how they are
          drawn (`figures`, `interactive`, `pictures`), written beside the paper's (`table_page`) or as an evaluation's
          page (`evaluation_page`), and how notebooks run into a report (`report`)
Comes in  data frames of `experiments`, images, notebooks
Goes out  Markdown, CSV, PNG, HTML pages that need no network
"""

__all__ = [
    "captions", "evaluation_page", "figures", "findings", "interactive", "pictures", "questions", "report",
    "table_page", "tables",
]  # fmt: skip


def __getattr__(name: str):
    if name != "evaluation_page":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labkit.reporting.judged import evaluation_page  # here, since a figure takes a second to be able to be drawn

    return evaluation_page
