/** The report's style sheet: one for light and dark, no fonts or images to load. */

export const STYLE = `
:root { color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --text: #1d2126; --muted: #626a73; --rule: #e4e6e8; --code: #f4f5f6;
  --blue: #2463c4; --orange: #c96a10; --violet: #7a4cc2; --grey: #9aa2ab; --good: #1f7a4d; --bad: #b3372e; }
@media (prefers-color-scheme: dark) { :root {
  --page: #101317; --card: #161a1f; --text: #e3e6e9; --muted: #98a1aa; --rule: #2a3037; --code: #1d2228;
  --blue: #6ea3f2; --orange: #e69a4c; --violet: #ab88ea; --grey: #69727c; --good: #5fc38f; --bad: #ec7f74; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 17px; font-weight: 650; margin: 44px 0 12px; }
h3 { font-size: 13px; font-weight: 600; margin: 0 0 4px; }
p { margin: 6px 0; }
.lead, .note, .empty { color: var(--muted); }
.note { font-size: 13px; max-width: 80ch; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 16px 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 22px 0; }
.tile b { display: block; white-space: nowrap; font-size: 22px; font-weight: 650; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.tile span { display: block; font-size: 12.5px; color: var(--muted); }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .axis { stroke: var(--muted); stroke-width: 1; }
.chart text { fill: var(--muted); }
.chart .strong { fill: var(--text); font-weight: 600; }
.chart .end { text-anchor: end; } .chart .middle { text-anchor: middle; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .faint { stroke-width: 1.25; opacity: .75; } .chart .dashed { stroke-dasharray: 6 5; } .chart .dotted { stroke-dasharray: 1.5 5; }
.chart .limit { stroke: var(--bad); stroke-width: 1; stroke-dasharray: 4 4; }
.chart .drop { stroke-width: 1; stroke-dasharray: 2 4; opacity: .7; }
.chart .band { stroke: none; opacity: .16; } .chart .band.solid { opacity: .55; }
.chart .mark { fill: var(--card); stroke-width: 2.5; }
.chart .line.blue, .chart .drop.blue { stroke: var(--blue); } .chart .band.blue, .chart .dot.blue { fill: var(--blue); }
.chart .line.orange { stroke: var(--orange); } .chart .band.orange, .chart .dot.orange { fill: var(--orange); }
.chart .line.violet, .chart .mark.violet, .chart .drop.violet { stroke: var(--violet); } .chart .band.violet { fill: var(--violet); }
.chart .line.grey { stroke: var(--grey); }
.curve svg, .forks svg { min-width: 620px; } .forks .track { fill: var(--rule); } .forks .solved { fill: var(--good); }
.gantt { min-width: 720px; } .gantt .lane { fill: var(--code); } .gantt .small { font-size: 10.5px; } .gantt .inside { fill: var(--text); font-size: 11px; }
.gantt .decode, .gantt .generate { fill: #2f6fd0; } .gantt .prefill { fill: #8db7ee; } .gantt .forward { fill: #8fd0a4; } .gantt .backward { fill: #2f9457; }
.gantt .optimizer { fill: #15603a; } .gantt .exchange { fill: #d3564a; } .gantt .other, .gantt .reset { fill: #a3abb4; } .gantt .tool { fill: #e08a2c; } .gantt .grade { fill: #8a5fd0; }
.gantt .pale { opacity: .28; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 12.5px; font-weight: 600; color: var(--muted); }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
tr:last-child td, tr:last-child th { border-bottom: 0; } td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
.scroll { overflow-x: auto; }
.up { color: var(--good); } .down { color: var(--bad); }
.bar { display: inline-block; width: 120px; height: 10px; vertical-align: middle; margin-left: 12px; } .bar .track { fill: var(--rule); } .bar .first { fill: var(--grey); } .bar .last { fill: var(--blue); }
details { border-top: 1px solid var(--rule); } details:last-child { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; padding: 9px 2px; } summary .id { color: var(--muted); font-size: 12.5px; }
.badge { display: inline-block; font-size: 12px; font-weight: 600; padding: 0 7px; border-radius: 4px; border: 1px solid currentColor; margin-right: 8px; }
.turn { margin: 0 0 10px; border-left: 2px solid var(--rule); padding-left: 12px; }
.turn .meta { color: var(--muted); font-size: 12px; }
pre { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; background: var(--code); border-radius: 6px; padding: 10px 12px; margin: 4px 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.command { background: none; padding: 0; font-weight: 600; }
footer { margin-top: 48px; color: var(--muted); font-size: 12.5px; }
code { font: 12.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
`;
