// Small plots: one line over the last minute, as paths of an SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120, HEIGHT = 56, TOP = 4;
export const SECONDS = 60;

// What the largest of some numbers is rounded up to: 1, 2 or 5 times a power of ten.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((step) => step * power).find((each) => each >= value * 0.999);
}

function path(svg, kind, data) {
  let found = svg.querySelector(`.${kind}`);
  if (!found) {
    found = svg.appendChild(document.createElementNS(SVG, "path"));
    found.setAttribute("class", kind);
  }
  found.setAttribute("d", data);
}

// points: [seconds, number or null], the oldest first; write: makes words of a number
export function plot(svg, points, write) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const known = points.filter((each) => each[1] !== null);
  const most = ceiling(Math.max(...known.map((each) => each[1]), 0) || 1);
  const last = points.length ? points[points.length - 1][0] : 0;
  const place = ([when, value]) => [
    (WIDTH * (1 - (last - when) / SECONDS)).toFixed(2),
    (HEIGHT - (value / most) * (HEIGHT - TOP)).toFixed(2),
  ];
  const runs = [];
  let before = null;
  for (const each of points) {
    if (last - each[0] > SECONDS || each[1] === null) continue;
    if (before === null || each[0] - before > 5) runs.push([]);
    runs[runs.length - 1].push(place(each));
    before = each[0];
  }
  const line = runs.map((run) => "M" + run.map((each) => each.join(",")).join("L")).join("");
  const area = runs
    .map((run) => `M${run[0][0]},${HEIGHT}L${run.map((each) => each.join(",")).join("L")}` +
      `L${run[run.length - 1][0]},${HEIGHT}Z`)
    .join("");
  path(svg, "axis", `M0,${HEIGHT}H${WIDTH}`);
  path(svg, "area", area);
  path(svg, "line", line);
  let scale = svg.nextElementSibling;
  if (!scale) {
    scale = document.createElement("p");
    scale.className = "scale";
    scale.append(document.createElement("span"), document.createElement("span"));
    svg.after(scale);
  }
  scale.firstChild.textContent = "last minute";
  scale.lastChild.textContent = `up to ${write(most)}`;
  svg.setAttribute("aria-label", `${known.length} samples, up to ${write(most)}`);
}
