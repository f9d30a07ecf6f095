#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Draws what a program has printed as a terminal shows it, as SVG.

    cargo testbed demo | docs/terminal-picture.py 'cargo testbed demo' >docs/src/demo.svg
"""

import html
import re
import sys

WIDTH, HEIGHT = 7.8, 17  # of a character, at 13 px
MARGIN, TITLE = 16, 34
COLOURS = {"held": "#3fb950", "unsupported": "#8b949e", "FAILED": "#f85149"}


def line(text, number):
    """A line of text, whose verdicts have their colours."""
    text = html.escape(text, quote=False)
    verdict = "|".join(COLOURS)
    text = re.sub(
        rf"\b({verdict})\b(?=\s|$)",
        lambda found: f'<tspan fill="{COLOURS[found[1]]}">{found[1]}</tspan>',
        text,
    )
    y = TITLE + HEIGHT * number
    return f'<text x="{MARGIN}" y="{y}" xml:space="preserve">{text}</text>'


def main():
    command = sys.argv[1]
    printed = sys.stdin.read().rstrip().splitlines()
    lines = [f"$ {command}", *printed]
    width = round(2 * MARGIN + WIDTH * max(map(len, lines)))
    height = TITLE + HEIGHT * len(lines)
    print("<!-- SPDX-License-Identifier: GPL-2.0 -->")
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13" fill="#e6edf3">'
    )
    print(f"<title>What {html.escape(command)} prints</title>")
    print(f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>')
    for number, text in enumerate(lines):
        if text:
            print(line(text, number))
    print("</svg>")


main()
