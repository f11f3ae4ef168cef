"""Lettering: figures whose words stay words, whatever names somebody gave to classes and folders."""

from functools import cache

from labkit.core.wording import writable

from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.text import Text

# For letters that matplotlib's own font lacks: those of these that are installed.
_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
          "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")  # fmt: skip


class Lettered(Figure):
    """No $ makes a formula of a name; a letter that no font here has is told by its number, a box would tell nothing."""

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            words = text.get_text()
            if words and not words.startswith("$\\mathdefault{"):  # matplotlib's own 10² at an axis
                text.set_parse_math(False)
                if not (words.isascii() and words.replace("\n", "").isprintable()):
                    text.set_text(drawable(words))
                    text.set_fontfamily([*text.get_fontfamily(), *_letters()])
        super().draw(renderer)


def drawable(words: str) -> str:
    """The words with their lines, and with \\u732b in place of what cannot be drawn here."""
    known = set("\n").union(*_letters().values())
    return "".join(letter if letter in known else ascii(letter)[1:-1] for letter in writable(words))


@cache
def _letters() -> dict[str, set[str]]:
    """The letters of each font that a figure may take words from, matplotlib's own first."""
    there = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    found = {name: there[name] for name in (rcParams["font.sans-serif"][0], *_FONTS) if name in there}
    letters = {name: map(chr, font_manager.get_font(path).get_charmap()) for name, path in found.items()}
    return {name: set(filter(str.isprintable, some)) for name, some in letters.items()}
