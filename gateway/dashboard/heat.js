// heat: requests by how long they took, over time: one column a point, one row a bucket, darker the more. Drawn by hand, for it is rectangles only; five steps
// of one colour on a square-root scale, since a few slow ones among many fast are what one looks for. As a table: the percentiles.

import {h} from "./dom.js";
import * as fmt from "./format.js";
import {table} from "./table.js";

const STEPS = 5, ROW = 16, LEFT = 62, BOTTOM = 20;
const value = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const level = (n, most) => n ? Math.max(1, Math.ceil(Math.sqrt(n / most) * STEPS)) : 0;

function edges(buckets) {
  return buckets.map((top, i) => top === null || top === undefined || i === buckets.length - 1 && !Number.isFinite(top) ? "more" : fmt.ms(top).replace(".00", ""));
}

// Only the rows that anything is in, and one around them.
function used(d) {
  const any = d.buckets_ms.map((_, b) => d.cells.some(c => c[b]));
  const first = any.indexOf(true), last = any.lastIndexOf(true);
  return first < 0 ? [0, 0] : [Math.max(0, first - 1), Math.min(any.length - 1, last + 1)];
}

export function heatmap(d, {label}) {
  const [low, high] = used(d), rows = high - low + 1, names = edges(d.buckets_ms), most = Math.max(1, ...d.cells.flat());
  const canvas = h("canvas.heat", {role: "img", "aria-label": `${label}. ${d.total ? `p50 ${fmt.ms(d.total.p50)}, p90 ${fmt.ms(d.total.p90)}, p99 ${fmt.ms(d.total.p99)} of ${fmt.int(d.total.n)}.` : ""} The percentiles are there as a table.`});
  const tip = h("div.chart-tip", {hidden: true});
  const draw = () => {
    const width = canvas.clientWidth, height = rows * ROW + BOTTOM, scale = devicePixelRatio || 1, cell = (width - LEFT) / d.points.length;
    canvas.style.height = height + "px";
    canvas.width = width * scale;
    canvas.height = height * scale;
    const c = canvas.getContext("2d"), colours = Array.from({length: STEPS + 1}, (_, i) => value("--heat-" + i));
    c.scale(scale, scale);
    c.font = "11px " + value("--sans");
    c.textBaseline = "middle";
    for (let b = low; b <= high; b++) {
      const y = (high - b) * ROW;
      c.fillStyle = value("--soft");
      c.textAlign = "right";
      if ((b - low) % (rows > 14 ? 2 : 1) === 0) c.fillText(names[b], LEFT - 8, y + ROW / 2);
      for (let i = 0; i < d.points.length; i++) {
        c.fillStyle = colours[level(d.cells[i][b], most)];
        c.fillRect(LEFT + i * cell, y + 0.5, Math.max(1, cell - (cell > 5 ? 1 : 0)), ROW - 1);
      }
    }
    c.fillStyle = value("--soft");
    const every = Math.max(1, Math.ceil(90 / cell)), wide = d.points.at(-1) - d.points[0] > 86400;
    for (let i = 0; i < d.points.length; i += every) {
      c.textAlign = i === 0 ? "left" : "center";
      if (LEFT + i * cell < width - 36) c.fillText(fmt.point(d.points[i], wide ? 86400 : d.interval_s, false), LEFT + i * cell, rows * ROW + BOTTOM / 2 + 3);
    }
  };
  canvas.addEventListener("mousemove", e => {
    const r = canvas.getBoundingClientRect(), i = Math.floor((e.clientX - r.left - LEFT) / ((r.width - LEFT) / d.points.length)), b = high - Math.floor((e.clientY - r.top) / ROW);
    tip.hidden = !(d.cells[i] && b >= low && b <= high);
    if (tip.hidden) return;
    tip.textContent = `${fmt.point(d.points[i], d.interval_s, true)} · up to ${names[b]} · ${fmt.int(d.cells[i][b])} requests`;
    tip.style.left = Math.min(e.clientX + 12, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = e.clientY + 14 + "px";
  });
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  let frame = 0;
  const watch = new ResizeObserver(() => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); }); // drawing changes the height, which is for the next frame
  const scale = h("div.heat-scale", {"aria-hidden": "true"}, "few", Array.from({length: STEPS}, (_, i) => h("i.h" + (i + 1))), `many (${fmt.compact(most)})`);
  return {node: [canvas, scale, tip], start: () => { watch.observe(canvas); document.addEventListener("weft:theme", draw); }, close: () => { watch.disconnect(); cancelAnimationFrame(frame); document.removeEventListener("weft:theme", draw); },
    table: () => table({columns: latencyColumns(d), rows: [...d.percentiles].reverse(), caption: label})};
}

export const latencyColumns = d => [
  {key: "t", label: "Time (UTC)", value: r => fmt.date(r.t) + (d.interval_s < 86400 ? " " + fmt.clock(r.t) : "")}, {key: "n", label: "Requests", num: true, show: r => fmt.int(r.n)},
  ...["p50", "p90", "p99"].map(p => ({key: p, label: p + ", ms", num: true, show: r => fmt.ms(r[p])})),
];
