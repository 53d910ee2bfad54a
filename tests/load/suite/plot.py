"""A line plot as SVG, as few lines as it takes: a doubling x axis, y from zero, a legend."""
import math
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 48
LEGEND = 18  # of a line
COLOURS = ("#1f4e79", "#c55a11", "#538135", "#7f3f98")


def nice_step(top):
    """A step of 1, 2 or 5 times a power of ten that divides the axis into four to ten."""
    step = 10 ** math.floor(math.log10(top / 4))
    return next(step * f for f in (1, 2, 5, 10) if top / (step * f) <= 8)


def text(x, y, s, anchor="middle", size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{more}>{escape(str(s))}</text>'


def line_plot(path, title, x_label, y_label, series):
    """series: name -> [(x, y)], x a power of two or near one."""
    points = [p for s in series.values() for p in s]
    x_ticks = sorted({x for x, _ in points})
    room = HEIGHT - TOP - BOTTOM
    top = max(y for _, y in points) * room / (room - LEGEND * len(series) - 12)  # no line runs through the legend
    step = nice_step(top)
    span = max(math.log2(x_ticks[-1] / x_ticks[0]), 1)
    place_x = lambda x: LEFT + (WIDTH - LEFT - RIGHT) * math.log2(x / x_ticks[0]) / span
    place_y = lambda y: HEIGHT - BOTTOM - room * y / top
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', text(WIDTH / 2, 20, title, size=14)]
    y = 0
    while y <= top:
        out.append(f'<path d="M{LEFT} {place_y(y):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        out.append(text(LEFT - 6, place_y(y) + 4, f"{y:,.0f}", "end"))
        y += step
    for x in x_ticks:
        out.append(f'<path d="M{place_x(x):.1f} {HEIGHT - BOTTOM}v4" stroke="#444444"/>')
        out.append(text(place_x(x), HEIGHT - BOTTOM + 18, x))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label))
    out.append(text(16, (TOP + HEIGHT - BOTTOM) / 2, y_label, more=f' transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})"'))
    for i, (name, s) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                   + " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in s) + '"/>')
        out += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{colour}"><title>{x}: {y:,.0f}</title></circle>' for x, y in s]
        out.append(f'<path d="M{LEFT + 10} {TOP + 6 + LEGEND * i}h20" stroke="{colour}" stroke-width="2"/>')
        out.append(text(LEFT + 36, TOP + 10 + LEGEND * i, name, "start"))
    Path(path).write_text("\n".join(out + ["</svg>"]) + "\n")
