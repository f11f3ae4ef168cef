"""Lettering: figures whose words stay words, whatever names somebody gave to classes and folders."""

import re
from functools import cache

from labkit.core.wording import writable

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

# Matplotlib's own font, and those that have letters which it lacks, where they are installed.
_OWN = "DejaVu Sans"
_WIDE = re.compile("CJK|Source Han|WenQuanYi|Droid Sans Fallback|IPA|Hiragino|PingFang|YaHei|Malgun|Unicode|Unifont")


class Lettered(Figure):
    """A figure in which no $ makes a formula of a name, and what no font here has is told by its number."""

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
    """The letters of each font that a figure may take words from."""
    wide = sorted({font.name for font in font_manager.fontManager.ttflist if _WIDE.search(font.name)})
    fonts = {name: font_manager.get_font(font_manager.findfont(name)) for name in (_OWN, *wide)}
    return {name: {*filter(str.isprintable, map(chr, font.get_charmap()))} for name, font in fonts.items()}
