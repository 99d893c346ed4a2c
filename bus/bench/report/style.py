"""How the report looks, in light and in dark: what the reader's system says. Colours stand here alone; the plots name classes."""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2327; --soft: #5f6b73; --line: #e3e5e1; --good: #1a7f4b; --bad: #b3372f;
  --c0: #2f6db5; --c1: #d1782a; --c2: #a33e7d; --c3: #3d8f6b; --c4: #7a63b8; --c5: #8a8a35; --c6: #6d7f8b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181b; --card: #1b2125; --ink: #e6eaec; --soft: #94a1a9; --line: #2d363c; --good: #5fc892; --bad: #ef8a80;
    --c0: #6fa8ea; --c1: #eba35f; --c2: #dd82ba; --c3: #73c9a2; --c4: #b09ce8; --c5: #c5c56a; --c6: #a3b3bd;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 4px 0 12px; max-width: 96ch; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0 8px; }
.tile, figure, .wide { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 16px; }
.tile b { display: block; font-size: 24px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.tile.bad b { color: var(--bad); } .tile.good b { color: var(--good); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px; }
figure { margin: 12px 0 0; padding: 14px 16px 10px; }
.grid figure { margin: 0; }
figcaption { font-size: 13px; color: var(--soft); }
figcaption b { color: var(--ink); }
.wide { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; white-space: normal; vertical-align: bottom; line-height: 1.25; }
tr:last-child td { border-bottom: 0; }
td.bad { color: var(--bad); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 20px; margin: 8px 0 0; font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, "DejaVu Sans", sans-serif; }
.narrow { display: none; max-width: 480px; }
@media (max-width: 760px) {
  main { padding: 24px 14px 48px; }
  .broad { display: none; }
  .narrow { display: block; }
}
svg text { fill: var(--soft); }
svg .axis { stroke: var(--line); stroke-width: 1; fill: none; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .thin { stroke-width: 1.25; }
svg .whisker { stroke-width: 1; opacity: 0.6; }
.key { display: inline-flex; gap: 16px; flex-wrap: wrap; font-size: 12px; color: var(--soft); margin-top: 6px; }
.key i { display: inline-block; width: 12px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: middle; }
.key i { background: currentColor; }
"""

COLOURS: Final = "\n".join(
    f".s{number} {{ stroke: var(--c{number}); }} .f{number} {{ fill: var(--c{number}); }} .k{number} {{ color: var(--c{number}); }}"
    for number in range(7)
)
