/* Curves, training metrics and cost ratios. Colors come from the stylesheet, so that both themes have theirs. */

const DASHES = ["solid", "9px,3px", "2.5px,2.5px", "12px,3px,3px,3px", "5px,2.5px", "9px,2.5px,2px,2.5px,2px,2.5px"];
const MARKERS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x"];
const CONFIG = { displayModeBar: false, responsive: true };
const FEW = 6;

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const chosen = (group) => document.querySelector(`input[name="${group}"]:checked`).value;

function colorOf(name) {
  const probe = byId("probe");
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

const faint = (color) => color.replace("rgb(", "rgba(").replace(")", ", 0.14)");

const printing = matchMedia("print");
const PRINT_WIDTH = 680; /* what A4 and Letter leave; the page can't measure it before it is printed */

/* Plotly reads some HTML in its texts; names are to be shown as they are. */
function plain(text, longest = 60) {
  const short = text.length > longest ? text.slice(0, longest - 1) + "…" : text;
  return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function shownRecipes() {
  return [...document.querySelectorAll("#chips input")].filter((box) => box.checked).map((box) => {
    const recipe = data.recipes[Number(box.value)];
    const [hue, dash, marker] = box.parentNode.querySelector(".swatch").classList.value.match(/\d+/g).map(Number);
    return { ...recipe, label: plain(recipe.name), color: colorOf(`c${hue}`), dash: DASHES[dash], marker: MARKERS[marker] };
  });
}

function layout(x, y, more) {
  const rule = colorOf("rule"), quiet = colorOf("quiet");
  const axis = { gridcolor: rule, linecolor: rule, zeroline: false, tickcolor: rule, ticks: "" };
  const title = (text) => ({ text: plain(text), font: { size: 13, color: quiet }, standoff: 10 });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: quiet },
    hoverlabel: { bgcolor: colorOf("raised"), bordercolor: colorOf("quiet"), font: { color: colorOf("ink") }, namelength: -1 },
    margin: { l: 62, r: 16, t: 10, b: 48 }, dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
    autosize: true, width: printing.matches ? PRINT_WIDTH : undefined,
    xaxis: { ...axis, showgrid: false, showline: true, ticks: "outside", ticklen: 5, title: title(x) },
    yaxis: { ...axis, title: title(y) }, ...more,
  };
}

function band(recipe, curve) {
  return {
    x: [...curve.x, ...[...curve.x].reverse()], y: [...curve.high, ...[...curve.low].reverse()],
    fill: "toself", fillcolor: faint(recipe.color), mode: "lines", line: { width: 0 }, hoverinfo: "skip", name: recipe.label,
  };
}

function line(recipe, curve) {
  const few = curve.x.length <= 40, wide = curve.high.some((value, i) => value > curve.low[i]);
  return {
    x: curve.x, y: curve.mean, customdata: curve.x.map((_, i) => [curve.low[i], curve.high[i]]), name: recipe.label,
    mode: few ? "lines+markers" : "lines", line: { color: recipe.color, width: 2.2, dash: recipe.dash },
    marker: { color: recipe.color, symbol: recipe.marker, size: 6 },
    hovertemplate: `%{fullData.name}<br>%{y:.3f}${wide ? " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]" : ""}<br>after %{x:,.0f}<extra></extra>`,
  };
}

function drawCurves() {
  const axis = chosen("curve-axis");
  const recipes = shownRecipes().filter((recipe) => recipe.curves[axis]);
  const traces = [
    ...(recipes.length > FEW ? [] : recipes.map((recipe) => band(recipe, recipe.curves[axis]))), ...recipes.map((recipe) => line(recipe, recipe.curves[axis])),
  ];
  const target = data.target === null ? {} : {
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.target, y1: data.target, line: { color: colorOf("quiet"), width: 1, dash: "1px,3px" } }],
    annotations: [{
      xref: "paper", x: 0, xanchor: "left", y: data.target, yanchor: "bottom", showarrow: false,
      text: `target ${data.target.toFixed(3)}`, font: { size: 11 },
    }],
  };
  return Plotly.react(plotOf("curves"), traces, layout(data.axes[axis], data.metric, target), CONFIG);
}

function smoothed(values) {
  const half = Math.round(values.length / 40);
  return values.map((value, i) => {
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((other) => other !== null);
    return value === null ? null : near.reduce((sum, other) => sum + other, 0) / near.length;
  });
}

/* Unsmoothed values lie behind the curves where these are few. */
function drawMetric() {
  const name = byId("metric").value;
  const recipes = shownRecipes().filter((recipe) => recipe.metrics[name]);
  const behind = recipes.length > FEW / 2 ? [] : recipes.map((recipe) => ({
    x: recipe.steps, y: recipe.metrics[name], name: recipe.label, mode: "lines", hoverinfo: "skip",
    line: { color: recipe.color, width: 1 }, opacity: 0.25,
  }));
  const traces = behind.concat(recipes.map((recipe) => ({
    x: recipe.steps, y: smoothed(recipe.metrics[name]), name: recipe.label, mode: "lines", connectgaps: true,
    line: { color: recipe.color, width: 2, dash: recipe.dash },
    hovertemplate: "%{fullData.name}<br>%{y:.4~g}<br>step %{x:,.0f}<extra></extra>",
  })));
  return Plotly.react(plotOf("training"), traces, layout("step", name, {}), CONFIG);
}

function ratioTrace(recipe, ratio, position, right) {
  const never = ratio.value === null, at = never ? ratio.low : ratio.value, open = ratio.high === null;
  const upper = open ? right : ratio.high;
  const told = never ? `not reached with ${ratio.low.toFixed(2)}` : `${at.toFixed(2)} [${ratio.low.toFixed(2)}, ${open ? "∞)" : `${upper.toFixed(2)}]`}`;
  const interval = {
    x: [ratio.low, upper], y: [position, position], mode: open ? "lines+markers" : "lines", hoverinfo: "skip",
    line: { color: recipe.color, width: 2.5 }, name: recipe.label, cliponaxis: false,
    marker: { color: recipe.color, symbol: "triangle-right", size: [0, 11] },
  };
  const point = {
    x: [at], y: [position], name: recipe.label, mode: "markers", cliponaxis: false,
    marker: { color: never ? colorOf("paper") : recipe.color, line: { color: recipe.color, width: 2 }, symbol: recipe.marker, size: 10 },
    hovertemplate: `%{fullData.name}<br>${told}<extra></extra>`,
  };
  return [interval, point];
}

function drawRatios() {
  const axis = chosen("ratio-axis");
  const recipes = shownRecipes().filter((recipe) => recipe.ratios[axis]);
  const ratios = recipes.map((recipe) => recipe.ratios[axis]);
  const known = ratios.flatMap((ratio) => [ratio.low, ratio.value, ratio.high]).filter((value) => value > 0);
  const left = Math.min(0.8, ...known) / 1.15, right = Math.max(1.25, ...known) * 1.15;
  const ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20, 50].filter((tick) => tick >= left && tick <= right);
  const traces = recipes.flatMap((recipe, i) => ratioTrace(recipe, { ...ratios[i], low: Math.max(ratios[i].low, left) }, i, right));
  const longest = matchMedia("(max-width: 40rem)").matches ? 16 : 32;
  const widest = Math.max(0, ...recipes.map((recipe) => Math.min(recipe.name.length, longest)));
  const shape = layout(`× the baseline’s ${axis}`, "", {
    height: 70 + 34 * Math.max(1, recipes.length), margin: { l: 20 + 8 * widest, r: 20, t: 10, b: 48 },
    shapes: [{ type: "line", yref: "paper", x0: 1, x1: 1, y0: 0, y1: 1, line: { color: colorOf("ink"), width: 1.2 } }],
  });
  Object.assign(shape.xaxis, { type: "log", range: [Math.log10(left), Math.log10(right)], tickvals: ticks, ticktext: ticks.map(String), showgrid: true });
  Object.assign(shape.yaxis, {
    range: [recipes.length - 0.5, -0.5], tickvals: recipes.map((_, i) => i), showgrid: false, fixedrange: true,
    ticktext: recipes.map((recipe) => plain(recipe.name, longest)), tickfont: { size: 13, color: colorOf("ink") },
  });
  return Plotly.react(plotOf("ratios"), traces, shape, CONFIG);
}

const plotOf = (id) => byId(id).querySelector(".plot");

function drawAll() {
  if (typeof Plotly === "undefined") return;
  for (const [id, draw] of [["curves", drawCurves], ["training", drawMetric], ["ratios", drawRatios]]) {
    if (!byId(id).hidden) draw();
  }
}

/* An inline script whose digest the policy names: the only way to run it that asks nothing of the network. */
async function startCharts() {
  const bytes = Uint8Array.from(atob(byId("plotly").textContent), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const program = document.createElement("script");
  program.textContent = await new Response(unpacked).text();
  document.head.append(program);
  for (const waiting of document.querySelectorAll(".loading")) waiting.remove();
  drawAll();
  byId("chips").addEventListener("change", drawAll);
  byId("metric").addEventListener("change", drawMetric);
  for (const [id, draw] of [["curves", drawCurves], ["ratios", drawRatios]]) {
    byId(id).querySelector(".switch").addEventListener("change", draw);
  }
  for (const button of document.querySelectorAll("[data-all]")) {
    button.addEventListener("click", () => {
      for (const box of document.querySelectorAll("#chips input")) box.checked = Boolean(button.dataset.all);
      drawAll();
    });
  }
}
