"""The page's style: light and dark, narrow and wide, and on paper. Nothing is fetched."""

CSS = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5f666f; --line: #d6d9dd;
  --paper: #ffffff; --gain: #2166ac; --loss: #b35806; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --faint: #a4abb4;
  --line: #41464d; --paper: #15181c; --gain: #2f78ba; --loss: #c66c16; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; border-top: 1px solid var(--line);
  padding-top: 1.5rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.faint, figcaption, small { color: var(--faint); }
small { display: block; font-size: .72rem; line-height: 1.3; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; vertical-align: top; }
th { font-weight: 600; }
tbody th, thead th:first-child { text-align: left; }
table.list { min-width: 40rem; }
table.list tr > * { border-bottom: 1px solid var(--line); }
table.heat { border-collapse: separate; border-spacing: 3px; width: 100%; min-width: 44rem;
  table-layout: fixed; }
table.heat th:first-child { width: 10rem; }
table.heat thead th { font-size: .8rem; text-align: center; vertical-align: bottom;
  padding: .2rem; overflow-wrap: anywhere; }
table.heat tbody > tr > * { vertical-align: middle; }
table.heat td { text-align: center; border-radius: 4px; padding: .5rem .15rem;
  background: var(--light); color: var(--light-ink); }
table.heat td small { color: inherit; font-size: .66rem; }
table.heat td.own { outline: 2px solid currentColor; outline-offset: -4px; }
table.heat td.clear { font-weight: 700; }
table.heat td.clear small { font-weight: 400; }
table.heat td.undefined { background: none; color: var(--faint); border: 1px dashed var(--line); }
@media (prefers-color-scheme: dark) {
  table.heat td { background: var(--dark); color: var(--dark-ink); }
  table.heat td.undefined { background: none; color: var(--faint); } }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .8rem; margin: .5rem 0; }
.scale span.swatches { display: flex; }
.scale i { display: block; width: 1.1rem; height: .8rem; background: var(--light); }
@media (prefers-color-scheme: dark) { .scale i { background: var(--dark); } }
.panels { display: grid; gap: 1.25rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; color: var(--ink); font-size: .95rem; }
svg { display: block; width: 100%; height: auto; max-width: 32rem; }
svg text { font-size: 11px; fill: var(--ink); }
svg .tick, svg .figure { fill: var(--faint); font-size: 10px; }
svg .own { font-weight: 700; }
svg .gain { fill: var(--gain); } svg .loss { fill: var(--loss); }
svg .zero { stroke: var(--ink); } svg .grid { stroke: var(--line); }
svg .interval { stroke: var(--ink); stroke-width: 1.25; fill: none; }
details { margin: 1rem 0; } summary { cursor: pointer; }
dl { max-width: 46rem; } dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
@media screen and (max-width: 40rem) { table.heat td small { display: none; }
  table.heat { min-width: 32rem; font-size: .8rem; border-spacing: 2px; }
  table.heat th:first-child { width: 7rem; position: sticky; left: 0; background: var(--paper);
    padding: .4rem .2rem; }
  table.heat thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg);
    text-align: left; }
  table.heat td.own { outline-width: 1px; outline-offset: -2px; }
  table.list { min-width: 0; font-size: .85rem; } table.list th, table.list td { padding: .3rem; }
  .scale { flex-wrap: wrap; } }
@media print {
  :root { color-scheme: light; --ink: #000; --faint: #444; --line: #bbb; --paper: #fff;
    --gain: #2166ac; --loss: #b35806; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  .scroll { overflow: visible; } table.heat { min-width: 0; }
  table.heat th:first-child { width: 8.5rem; } table.heat td small { font-size: 5.5pt; }
  table.heat thead th { font-size: 6.2pt; }
  section + section { break-before: page; }
  table.list { min-width: 0; } details table { font-size: 6.5pt; } details small { font-size: 4.8pt; }
  details th, details td { padding: .2rem; }
  details::details-content { content-visibility: visible; height: auto; }
  table.heat td { background: var(--light); color: var(--light-ink); }
  .scale i { background: var(--light); }
  table, figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .panels { grid-template-columns: 1fr 1fr; } }
"""
