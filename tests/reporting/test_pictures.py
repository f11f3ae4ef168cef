from labkit.dashboards import parts
from labkit.reporting import lettering, pictures

import numpy as np
import pytest
import torch
from matplotlib.text import Text


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_holds_every_filter(channels):
    d = torch.randn(7, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    board = np.asarray(pictures.filters(d).axes[0].images[0].get_array())
    first = board[1:5, 1:5] if channels == 1 else board[1:5, 1:5, 0]
    assert np.allclose(first, 0.5 + 0.5 * (d[0, 0] / d[0].abs().max()).numpy(), atol=1e-6)
    assert board.shape[:2] == (3 * 5 + 1, 4 * 5 + 1) or board.shape[:2] == (2 * 5 + 1, 4 * 5 + 1)


def test_strips_have_a_column_per_name_and_a_note_per_picture():
    x = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    fig = pictures.strips({"image": x, "T(x)": 1.4 * x}, {"T(x)": ["20 dB", "21 dB"]})
    assert [ax.get_title() for ax in fig.axes[:2]] == ["image", "T(x)"]
    assert [ax.get_xlabel() for ax in fig.axes] == ["", "20 dB", "", "21 dB"]
    assert np.allclose(fig.axes[1].images[0].get_array(), (1.4 * x[0]).clamp(0, 1).movedim(0, -1).numpy())


def test_a_code_glows_where_it_is_active():
    seen = parts.glowing(torch.tensor([[0.0, 1.0], [0.25, 0.0]]))
    assert seen.shape == (3, 2, 2) and seen[:, 0, 1].sum() > seen[:, 1, 0].sum() > seen[:, 0, 0].sum()


def test_learning_draws_batches_and_means_of_passes():
    fig = pictures.learning([4.0, 2.0, 3.0, 1.0], 2)
    batches, means = fig.axes[0].lines
    assert batches.get_ydata().tolist() == [4, 2, 3, 1] and list(means.get_ydata()) == [3, 2]
    assert list(means.get_xdata()) == [1, 2]


def test_a_figure_is_shown_once():
    """Notebooks show what a cell returns and what pyplot still holds: one of the two is enough."""
    import matplotlib.pyplot as plt

    pictures.learning([1.0, 2.0], 1)
    assert not plt.get_fignums()


def test_a_training_history_draws_its_numbers():
    assert list(pictures.history({"loss": [3.0, 2.0]}, "error").axes[0].lines[0].get_ydata()) == [3, 2]


def test_strata_stand_beside_their_filters():
    x, d = torch.rand(2, 4, 3, 6, 6), torch.randn(2, 5, 3, 4, 4)
    fig = pictures.strata(x, d, ["cluster 1", "cluster 2"])
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["cluster 1", "its 5 filters", "cluster 2", "its 5 filters"]
    board = np.asarray(fig.axes[2].images[0].get_array())
    assert np.allclose(board[1:7, 1:7], x[1, 0].movedim(0, -1).numpy())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", ["$^$ %", "5 $ or 6 $", r"\\$\\alpha_", "{", "zürich\udcff", "鯨", "𓀀", "a\nb", "\x07"]
)
def test_any_name_can_be_drawn_and_is_no_formula(tmp_path, name):
    x = torch.rand(2, 1, 8, 8)
    figures = [
        pictures.strips({name: x}, {name: [name, ""]}),
        pictures.history({name: [1, 2]}, name),
    ]  # fmt: skip
    for fig in figures:
        pictures.save(fig, tmp_path, "x")
        drawn = [text for text in fig.findobj(Text) if text.get_text() and "mathdefault" not in text.get_text()]
        assert drawn and not any(text.get_parse_math() for text in drawn)
        fig.savefig(tmp_path / "x.svg")


def test_a_letter_that_no_font_has_is_told_by_its_number():
    assert lettering.drawable("x \U000f0000 λ") == r"x \U000f0000 λ"


def test_powers_at_an_axis_are_still_powers(tmp_path):
    fig, ax = pictures.canvas(3, 2)
    ax.loglog([1, 100], [1, 1e6])
    for _ in range(2):
        pictures.save(fig, tmp_path, "x")
    assert any(text.get_parse_math() and "mathdefault" in text.get_text() for text in fig.findobj(Text))
