// The page's side of spectralmc.explorer: sliders ask, a canvas draws the newest answer.
//
// One request is under way at a time, for the newest place of the sliders; the answer is one message, its arrays float32 behind each
// other in one buffer, drawn in the next frame of the page. The simulated law is asked for once the sliders rest.

const STEPS = 400; // of a slider
const REST = 160; // ms without a move until the sliders rest
const PATIENCE = 6000; // ms until an answer counts as lost
const LAWS = ["exact", "simulated", "learned"];
const PLURAL = { call: "Call", put: "Put" };
const GREEKS = { value: ["V", "value"], delta: ["Δ", "delta"], gamma: ["Γ", "gamma"], theta: ["Θ", "theta, per year"], rho: ["ρ", "rho, to the rate"] };

// Numbers ------------------------------------------------------------------------------------------------------------------------

const minus = (text) => text.replace("-", "−");

/** A number in so many significant digits, without an exponent where people would not write one. */
function shown(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size < -5 || size > 6) return minus(value.toExponential(digits - 2));
  return minus(value.toFixed(Math.min(Math.max(digits - 1 - size, 0), 7)));
}

const percent = (value, digits = 3) => (Number.isFinite(value) && value !== null ? `${minus((100 * value).toFixed(digits))} %` : "–");

/** The step of about ``count`` ticks over ``span``: 1, 2 or 5 times a power of ten. */
function tidy(span, count) {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const ratio = raw / power;
  return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

/** The smallest and largest finite numbers of some arrays. */
function extent(...arrays) {
  let low = Infinity;
  let high = -Infinity;
  for (const array of arrays) {
    for (const value of array ?? []) {
      if (!Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : [0, 1];
}

/** An interval that stands still while what it must hold moves within it: it grows at once and shrinks late. */
class Axis {
  constructor(least = 0) {
    this.least = least;
    this.low = 0;
    this.high = 0;
  }

  hold([low, high], least = this.least) {
    const middle = (low + high) / 2;
    const span = Math.max(high - low, least, 1e-12);
    const wanted = high - low < span ? [middle - span / 2, middle + span / 2] : [low, high];
    const room = this.high - this.low;
    if (this.low <= wanted[0] && wanted[1] <= this.high && room < 2.5 * span) return this;
    const step = tidy(span, 8);
    this.low = Math.floor((wanted[0] - 0.03 * span) / step) * step;
    this.high = Math.ceil((wanted[1] + 0.03 * span) / step) * step;
    return this;
  }

  ticks(count) {
    const step = tidy(this.high - this.low, count);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let i = Math.ceil(this.low / step - 1e-6); i * step <= this.high + 1e-6 * step; i += 1) found.push(i * step);
    return found.map((value) => [value, minus((Math.abs(value) < step / 2 ? 0 : value).toFixed(digits))]);
  }
}

// Canvas -------------------------------------------------------------------------------------------------------------------------

/** A panel: a canvas of the page's resolution, axes in the field's symbols, and what was drawn last. */
class Panel {
  constructor(parent, title, xLabel, yLabel) {
    this.figure = node("figure", "smc-panel", parent);
    const caption = node("figcaption", "", this.figure);
    this.title = node("b", "", caption, title);
    this.note = node("span", "smc-note", caption);
    this.canvas = node("canvas", "", this.figure);
    this.canvas.setAttribute("role", "img");
    this.context = this.canvas.getContext("2d");
    this.x = new Axis();
    this.y = new Axis();
    this.xLabel = xLabel;
    this.yLabel = yLabel;
    this.margin = { left: 46, right: 12, top: 22, bottom: 38 };
  }

  /** Look how large the canvas is: for all panels before any is drawn, since to look after a change makes the browser lay out the page. */
  measure() {
    [this.width, this.height] = [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  /** Clear, and return whether there is room to draw. */
  begin(colours) {
    const ratio = window.devicePixelRatio || 1;
    if (this.width < 80 || this.height < 80) return false; // out of sight: its size will be told when it is not
    const pixels = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== pixels[0] || this.canvas.height !== pixels[1]) [this.canvas.width, this.canvas.height] = pixels;
    this.colours = colours;
    const c = this.context;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    c.lineJoin = c.lineCap = "round";
    return true;
  }

  px(x) {
    const { left, right } = this.margin;
    return left + ((x - this.x.low) / (this.x.high - this.x.low)) * (this.width - left - right);
  }

  py(y) {
    const { top, bottom } = this.margin;
    return this.height - bottom - ((y - this.y.low) / (this.y.high - this.y.low)) * (this.height - top - bottom);
  }

  /** The abscissa under a pointer. */
  at(event) {
    const { left, right } = this.margin;
    const share = (event.clientX - this.canvas.getBoundingClientRect().left - left) / (this.width - left - right);
    return this.x.low + Math.min(Math.max(share, 0), 1) * (this.x.high - this.x.low);
  }

  font(size, weight = 400, style = "normal") {
    this.context.font = `${style} ${weight} ${size}px ${this.colours.font}`;
  }

  text(words, x, y, align = "center", colour = this.colours.soft) {
    const c = this.context;
    c.textAlign = align;
    c.fillStyle = colour;
    c.fillText(words, x, y);
  }

  frame() {
    const c = this.context;
    const { left, right, top, bottom } = this.margin;
    const floor = this.height - bottom;
    this.font(11);
    c.lineWidth = 1;
    c.textBaseline = "middle";
    for (const [value, words] of this.y.ticks(Math.max(2, (floor - top) / 44))) {
      const y = Math.round(this.py(value)) + 0.5;
      this.line(left, y, this.width - right, y, this.colours.grid);
      this.text(words, left - 7, y, "right");
    }
    c.textBaseline = "top";
    for (const [value, words] of this.x.ticks(Math.max(2, (this.width - left - right) / 74))) {
      const x = Math.round(this.px(value)) + 0.5;
      this.line(x, top, x, floor, this.colours.grid);
      this.text(words, x, floor + 6);
    }
    this.line(left, floor + 0.5, this.width - right, floor + 0.5, this.colours.axis);
    this.font(11.5);
    this.text(this.xLabel, this.width - right, floor + 21, "right");
    c.textBaseline = "alphabetic";
    if (this.yLabel) this.text(this.yLabel, left - 38, 11, "left");
  }

  line(x0, y0, x1, y1, colour) {
    const c = this.context;
    c.strokeStyle = colour;
    c.beginPath();
    c.moveTo(x0, y0);
    c.lineTo(x1, y1);
    c.stroke();
  }

  clipped(draw) {
    const c = this.context;
    const { left, right, top, bottom } = this.margin;
    c.save();
    c.beginPath();
    c.rect(left, top - 1, this.width - left - right + 1, this.height - top - bottom + 2);
    c.clip();
    draw();
    c.restore();
  }

  path(xs, ys) {
    const c = this.context;
    let pen = false;
    c.beginPath();
    for (let i = 0; i < xs.length; i += 1) {
      if (!Number.isFinite(ys[i])) {
        pen = false;
        continue;
      }
      if (pen) c.lineTo(this.px(xs[i]), this.py(ys[i]));
      else c.moveTo(this.px(xs[i]), this.py(ys[i]));
      pen = true;
    }
  }

  /** A law in its own look: exact a thin solid line, learned wide dashes. */
  curve(law, xs, ys) {
    if (!xs || !ys) return;
    const c = this.context;
    this.path(xs, ys);
    c.strokeStyle = this.colours[law];
    c.lineWidth = law === "learned" ? 2.2 : 1.4;
    c.setLineDash(law === "learned" ? [7, 5] : []);
    c.lineCap = law === "learned" ? "butt" : "round";
    c.stroke();
    c.setLineDash([]);
  }

  /** Markers with the bars of their standard errors. */
  markers(xs, ys, errors, across = null) {
    if (!xs || !ys) return;
    const c = this.context;
    c.strokeStyle = c.fillStyle = this.colours.simulated;
    c.lineWidth = 1.2;
    for (let i = 0; i < xs.length; i += 1) {
      if (!Number.isFinite(ys[i])) continue;
      const [x, y] = [this.px(xs[i]), this.py(ys[i])];
      c.beginPath();
      if (errors) this.whisker(x, this.py(ys[i] - errors[i]), x, this.py(ys[i] + errors[i]));
      if (across) this.whisker(this.px(xs[i] - across[i]), y, this.px(xs[i] + across[i]), y);
      c.stroke();
      c.beginPath();
      c.arc(x, y, 2.6, 0, 2 * Math.PI);
      c.fill();
    }
  }

  whisker(x0, y0, x1, y1) {
    const c = this.context;
    const [dx, dy] = x0 === x1 ? [2.5, 0] : [0, 2.5];
    c.moveTo(x0, y0);
    c.lineTo(x1, y1);
    for (const [x, y] of [[x0, y0], [x1, y1]]) {
      c.moveTo(x - dx, y - dy);
      c.lineTo(x + dx, y + dy);
    }
  }

  /** A dotted line where the strike is. */
  strike(k) {
    if (k < this.x.low || k > this.x.high) return;
    const c = this.context;
    const x = Math.round(this.px(k)) + 0.5;
    c.lineWidth = 1;
    c.setLineDash([1, 3]);
    this.line(x, this.margin.top - 6, x, this.height - this.margin.bottom, this.colours.ink);
    c.setLineDash([]);
    c.fillStyle = this.colours.ink;
    c.beginPath();
    c.moveTo(x, this.margin.top - 3);
    c.lineTo(x - 4, this.margin.top - 10);
    c.lineTo(x + 4, this.margin.top - 10);
    c.fill();
  }
}

function drawDensity(panel, answer, seen, levels, k) {
  const { arrays, scalars } = answer;
  const curves = LAWS.map((law) => (law === "simulated" || !seen(law) ? null : arrays[`density.${law}`]));
  const [x, q] = [arrays["density.x"], arrays.quantiles];
  const height = extent(arrays["density.exact"], arrays["density.learned"], arrays["density.simulated"])[1];
  panel.x.hold([x[8], x[x.length - 9]]);
  panel.y.hold([0, 1.08 * height]);
  panel.y.low = 0;
  panel.frame();
  const shape = curves[2] ?? curves[0];
  const c = panel.context;
  panel.clipped(() => {
    for (let i = 0; i < Math.floor(q.length / 2) && shape; i += 1) shade(panel, x, shape, q[i], q[q.length - 1 - i]);
    panel.curve("exact", x, curves[0]);
    if (seen("simulated")) panel.markers(arrays["density.at"], arrays["density.simulated"], arrays["density.simulated_error"]);
    panel.curve("learned", x, curves[2]);
    if (!shape) return;
    panel.font(10.5, 600);
    for (const i of [1, 3, 5]) {
      const y = panel.py(between(x, shape, q[i]));
      c.lineWidth = 1;
      panel.line(panel.px(q[i]), panel.py(0), panel.px(q[i]), y, panel.colours.band);
      if (i !== 3) halo(panel, `${100 * levels[i]} %`, panel.px(q[i]) + (i === 1 ? -8 : 8), y - 9, i === 1 ? "right" : "left");
    }
  });
  panel.strike(k);
  const outside = scalars.mass < 0.9995 ? ` · ${percent(1 - scalars.mass, 1)} at the atom` : "";
  panel.note.textContent = `median ${shown(q[3], 3)} · 90 % in ${shown(q[1], 3)} … ${shown(q[5], 3)}${outside}`;
  panel.canvas.setAttribute("aria-label", `Density of the log return. ${panel.note.textContent}. Peak ${shown(height, 3)}.`);
}

function shade(panel, x, y, low, high) {
  const c = panel.context;
  c.beginPath();
  c.moveTo(panel.px(low), panel.py(0));
  c.lineTo(panel.px(low), panel.py(between(x, y, low)));
  for (let i = 0; i < x.length; i += 1) if (x[i] > low && x[i] < high) c.lineTo(panel.px(x[i]), panel.py(y[i]));
  c.lineTo(panel.px(high), panel.py(between(x, y, high)));
  c.lineTo(panel.px(high), panel.py(0));
  c.fillStyle = panel.colours.shade;
  c.fill();
}

/** The ordinate of a curve on even abscissae. */
function between(x, y, at) {
  const place = Math.min(Math.max((at - x[0]) / (x[1] - x[0]), 0), x.length - 1.001);
  const i = Math.floor(place);
  return y[i] + (place - i) * (y[i + 1] - y[i]);
}

function halo(panel, words, x, y, align) {
  const c = panel.context;
  c.textAlign = align;
  c.lineWidth = 3;
  c.strokeStyle = panel.colours.paper;
  c.strokeText(words, x, y);
  panel.text(words, x, y, align, panel.colours.soft);
}

function drawStrikes(panel, answer, seen, k, kind, quantity) {
  const { arrays } = answer;
  const factor = quantity === "volatility" ? 100 : 1;
  const scaled = (name) => arrays[name] && arrays[name].map((value) => factor * value);
  const [x, exact, learned, simulated] = [arrays["strikes.x"], scaled("strikes.exact"), scaled("strikes.learned"), scaled("strikes.simulated")];
  const inside = extent(exact, learned ?? [], exact || learned ? [] : simulated);
  const pad = 0.12 * (inside[1] - inside[0]);
  panel.x.hold(extent(x));
  panel.y.hold([Math.max(inside[0] - pad, 0), inside[1] + pad], quantity === "volatility" ? 4 : 0.01);
  panel.title.textContent = quantity === "volatility" ? "Implied volatility" : `${PLURAL[kind]} prices`;
  panel.yLabel = quantity === "volatility" ? "σ, % per √year" : "V/F";
  panel.frame();
  panel.clipped(() => {
    if (seen("learned") && learned) band(panel, x, learned, scaled("strikes.learned_error"));
    if (seen("exact")) panel.curve("exact", x, exact);
    if (seen("simulated")) panel.markers(arrays["strikes.at"], simulated, scaled("strikes.simulated_error"));
    if (seen("learned")) panel.curve("learned", x, learned);
  });
  panel.strike(k);
  const best = learned ?? exact ?? simulated;
  const at = learned || exact ? between(x, best, k) : NaN;
  const unit = quantity === "volatility" ? " %" : "";
  panel.note.textContent = `at k = ${shown(k, 3)}: ${k < x[0] || k > x[x.length - 1] ? "–" : shown(at, 4) + unit}`;
  panel.canvas.setAttribute("aria-label", `${panel.title.textContent} over the log-moneyness, ${panel.note.textContent}.`);
}

/** The band of the learned law's error bars, where it is wide enough to be seen. */
function band(panel, x, y, error) {
  const c = panel.context;
  c.fillStyle = panel.colours.learned;
  c.globalAlpha = 0.16;
  for (let i = 0; i + 1 < x.length; i += 1) {
    if (!Number.isFinite(y[i]) || !Number.isFinite(y[i + 1])) continue;
    c.beginPath();
    c.moveTo(panel.px(x[i]), panel.py(y[i] - error[i]));
    c.lineTo(panel.px(x[i + 1]), panel.py(y[i + 1] - error[i + 1]));
    c.lineTo(panel.px(x[i + 1]), panel.py(y[i + 1] + error[i + 1]));
    c.lineTo(panel.px(x[i]), panel.py(y[i] + error[i]));
    c.fill();
  }
  c.globalAlpha = 1;
}

function drawPlane(panel, answer, seen) {
  const { arrays } = answer;
  const part = (law, which) => arrays[`phi.${law}.${which}`];
  panel.x.hold([Math.min(-0.05, extent(part("exact", "re"), part("learned", "re"), part("simulated", "re"))[0]), 1.03]);
  const [low, high] = extent(part("exact", "im"), part("learned", "im"), part("simulated", "im"));
  panel.y.hold([low - 0.02, high + 0.02], 0.2);
  panel.frame();
  const c = panel.context;
  panel.clipped(() => {
    c.lineWidth = 1;
    panel.line(panel.px(0), 0, panel.px(0), panel.height, panel.colours.axis);
    panel.line(0, panel.py(0), panel.width, panel.py(0), panel.colours.axis);
    if (seen("exact")) panel.curve("exact", part("exact", "re"), part("exact", "im"));
    const error = arrays["phi.simulated.error"];
    if (seen("simulated")) panel.markers(part("simulated", "re"), part("simulated", "im"), error, error);
    if (seen("learned")) panel.curve("learned", part("learned", "re"), part("learned", "im"));
  });
  c.fillStyle = panel.colours.ink;
  c.beginPath();
  c.arc(panel.px(1), panel.py(0), 3, 0, 2 * Math.PI);
  c.fill();
  panel.font(10.5, 600);
  halo(panel, "u = 0", panel.px(1) - 6, panel.py(0) - 8, "right");
  panel.note.textContent = "u from 0 to 5 per standard deviation";
  const count = ["exact", "learned"].filter((law) => part(law, "re")).join(" and ") || "simulated";
  panel.canvas.setAttribute("aria-label", `Characteristic function in the complex plane, ${count}; imaginary part from ${shown(low, 2)} to ${shown(high, 2)}.`);
}

/** Price rows: the number, its volatility, and the difference from the best law with the error bar. */
function drawPrice(panel, answer, seen, about, kind) {
  const { scalars } = answer;
  const rows = LAWS.filter((law) => about.laws.includes(law));
  const known = rows.filter((law) => Number.isFinite(scalars[`${law}.price`] ?? NaN));
  const base = known.includes("exact") ? "exact" : known.includes("learned") ? "learned" : "simulated";
  const gap = (law) => 1e4 * (scalars[`${law}.price`] - scalars[`${base}.price`]);
  const error = (law) => 1e4 * (scalars[`${law}.error`] ?? 0);
  if (known.includes("simulated")) panel.noise = error("simulated");
  const reach = Math.max(1e-3, 1.15 * (panel.noise ?? 0), ...known.map((law) => 1.1 * (Math.abs(gap(law)) + error(law))));
  panel.margin = { left: Math.min(Math.max(0.46 * panel.width, 148), 230), right: 14, top: 6, bottom: 38 };
  panel.x.hold([-reach, reach]);
  const edge = Math.max(panel.x.high, -panel.x.low);
  [panel.x.low, panel.x.high] = [-edge, edge];
  [panel.y.low, panel.y.high] = [0, 1];
  const c = panel.context;
  const { left, right, top, bottom } = panel.margin;
  const floor = panel.height - bottom;
  c.lineWidth = 1;
  c.textBaseline = "top";
  panel.font(11);
  for (const [value, words] of panel.x.ticks(Math.max(2, (panel.width - left - right) / 60))) {
    const x = Math.round(panel.px(value)) + 0.5;
    panel.line(x, top, x, floor, value === 0 ? panel.colours.axis : panel.colours.grid);
    panel.text(words, x, floor + 6);
  }
  panel.line(left, floor + 0.5, panel.width - right, floor + 0.5, panel.colours.axis);
  panel.font(11.5);
  panel.text(`less ${base}, bp of the forward`, panel.width - right, floor + 21, "right");
  c.textBaseline = "middle";
  const words = [];
  rows.forEach((law, i) => {
    const y = top + ((i + 0.5) / rows.length) * (floor - top);
    const here = known.includes(law) && seen(law);
    const price = scalars[`${law}.price`];
    panel.font(11.5);
    panel.text(law, 8, y - 16, "left", panel.colours.soft);
    panel.font(17, 600);
    panel.text(here ? percent(price) : "…", 8, y + 1, "left", here ? panel.colours.ink : panel.colours.soft);
    panel.font(11.5);
    const extra = [];
    if (here && law !== "exact") extra.push(`± ${shown(error(law), 2)} bp`);
    if (here && Number.isFinite(scalars[`${law}.volatility`] ?? NaN)) extra.push(`σ ${percent(scalars[`${law}.volatility`], 2)}`);
    panel.text(extra.join("  "), 8, y + 17, "left", panel.colours.soft);
    if (!here) return;
    words.push(`${law} ${percent(price)}${law === "exact" ? "" : ` ± ${shown(error(law), 2)} basis points`}`);
    c.strokeStyle = c.fillStyle = panel.colours[law];
    c.lineWidth = 2;
    c.beginPath();
    const [x, e] = [gap(law), error(law)];
    if (law !== "exact") panel.whisker(panel.px(x - e), y, panel.px(x + e), y);
    c.stroke();
    c.beginPath();
    if (law === "exact") c.rect(panel.px(x) - 1.2, y - 12, 2.4, 24);
    else if (law === "learned") for (const [dx, dy] of [[0, -6], [6, 0], [0, 6], [-6, 0]]) c.lineTo(panel.px(x) + dx, y + dy);
    else c.arc(panel.px(x), y, 4.5, 0, 2 * Math.PI);
    c.fill();
  });
  panel.title.textContent = `${PLURAL[kind]} price`;
  panel.note.textContent = `% of the forward · strike ${shown(scalars.strike, 4)}, forward ${shown(scalars.forward, 4)}`;
  panel.canvas.setAttribute("aria-label", `${PLURAL[kind]} price over the forward: ${words.join("; ")}.`);
  return words.join("; ");
}

// Page ---------------------------------------------------------------------------------------------------------------------------

/** A symbol in italics, its index below the line. */
function symbol(parent, words) {
  const [, stem, index] = /^(.*?)([₀-₉]?)$/u.exec(words);
  const made = node("i", "", parent, stem);
  if (index) node("sub", "", made, String(index.codePointAt(0) - 0x2080));
  return made;
}

function node(tag, name, parent, words) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (words !== undefined) made.textContent = words;
  parent?.append(made);
  return made;
}

let views = 0;

class View {
  constructor(model, element) {
    this.model = model;
    this.about = model.get("about");
    this.id = `smc${(views += 1)}-${Math.random().toString(36).slice(2, 8)}`;
    this.point = Object.fromEntries(this.about.controls.map((control) => [control.name, control.start]));
    this.kind = this.about.kind;
    this.quantity = this.about.quantity;
    this.hidden = new Set();
    this.sent = 0;
    this.build(element);
    this.listen();
    this.ask(true);
  }

  // What it is made of

  build(element) {
    this.root = node("section", "smc-explorer", element);
    this.root.setAttribute("aria-label", `Explorer: ${this.about.title}`);
    const head = node("header", "", this.root);
    node("h2", "", head, this.about.title);
    this.legend(head);
    const body = node("div", "smc-body", this.root);
    const side = node("div", "smc-side", body);
    const sliders = node("div", "smc-controls", side);
    this.inputs = new Map();
    for (const control of this.about.controls) if (control.high > control.low) this.slider(sliders, control);
    this.greeks = node("div", "smc-greeks", side);
    const fixed = this.about.controls.filter((control) => control.high <= control.low);
    if (fixed.length) node("p", "smc-fixed", sliders, `fixed: ${fixed.map((c) => `${c.label} ${shown(c.start, 3)}`).join(", ")}`);
    const stage = node("div", "smc-stage", body);
    this.density = new Panel(stage, "Density", "log return x", "f(x)");
    this.strikes = new Panel(stage, "Implied volatility", "log-moneyness k = ln(K/F)", "σ");
    this.plane = new Panel(stage, "Characteristic function", "Re φ(u)", "Im φ(u)");
    this.price = new Panel(stage, "Price", "", "");
    this.panels = [this.density, this.strikes, this.plane, this.price];
    const foot = node("footer", "", this.root);
    this.status = node("span", "smc-status", foot, "waiting for the kernel …");
    this.status.setAttribute("role", "status");
    this.speed = node("span", "smc-speed", foot);
  }

  legend(head) {
    const box = node("fieldset", "smc-legend", head);
    node("legend", "smc-hidden", box, "Laws shown");
    for (const law of LAWS.filter((name) => this.about.laws.includes(name))) {
      const label = node("label", `smc-law smc-${law}`, box);
      const input = node("input", "", label);
      input.type = "checkbox";
      input.checked = true;
      input.addEventListener("change", () => {
        if (input.checked) this.hidden.delete(law);
        else this.hidden.add(law);
        this.paint();
      });
      label.insertAdjacentHTML("beforeend", KEYS[law]);
      label.append(law === "simulated" ? "simulated ± s.e." : law);
    }
    this.choice(head, "Option", "kind", ["call", "put"]);
    this.choice(head, "Over the strikes", "quantity", ["volatility", "price"]);
    const reset = node("button", "", head, "Reset");
    reset.type = "button";
    reset.title = "All sliders back to where they started";
    reset.addEventListener("click", () => this.move(Object.fromEntries(this.about.controls.map((c) => [c.name, c.start]))));
  }

  choice(parent, title, field, values) {
    const box = node("fieldset", "smc-choice", parent);
    node("legend", "smc-hidden", box, title);
    for (const value of values) {
      const label = node("label", "", box);
      const input = node("input", "", label);
      Object.assign(input, { type: "radio", name: `${this.id}-${field}`, value, checked: this[field] === value });
      input.dataset.lmSuppressShortcuts = "true";
      input.addEventListener("change", () => {
        this[field] = value;
        this.changed(performance.now());
        this.settle();
      });
      node("span", "", label, value);
    }
  }

  slider(parent, control) {
    const box = node("div", "smc-control", parent);
    const label = node("label", "", box);
    label.htmlFor = `${this.id}-${control.name}`;
    if (control.symbol) symbol(label, control.symbol);
    node("span", "", label, control.label);
    if (control.unit) node("small", "", label, control.unit);
    const number = node("input", "smc-number", box);
    Object.assign(number, { type: "text", inputMode: "decimal", autocomplete: "off", spellcheck: false });
    number.setAttribute("aria-label", `${control.label}, value`);
    const range = node("input", "smc-range", box);
    Object.assign(range, { type: "range", id: label.htmlFor, min: 0, max: STEPS, step: 1 });
    range.name = control.name;
    for (const input of [number, range]) input.dataset.lmSuppressShortcuts = "true"; // keys are the slider's, not the notebook's
    range.addEventListener("input", (event) => this.move({ [control.name]: this.value(control, Number(range.value)) }, event.timeStamp));
    range.addEventListener("dblclick", () => this.move({ [control.name]: control.start }));
    const typed = () => {
      const value = Number(number.value.trim().replace("−", "-").replace(",", "."));
      const known = number.value.trim() !== "" && Number.isFinite(value);
      this.move({ [control.name]: known ? Math.min(Math.max(value, control.low), control.high) : this.point[control.name] });
    };
    number.addEventListener("change", typed);
    number.addEventListener("keydown", (event) => event.key === "Enter" && typed());
    this.inputs.set(control.name, { control, range, number });
    this.place(control.name);
  }

  value(control, step) {
    const share = step / STEPS;
    if (step === 0) return control.low;
    if (step === STEPS) return control.high;
    const value = control.logarithmic ? control.low * (control.high / control.low) ** share : control.low + (control.high - control.low) * share;
    return Number(value.toPrecision(12));
  }

  /** Show a value on its slider. */
  place(name) {
    const { control, range, number } = this.inputs.get(name);
    const { low, high } = control;
    const value = this.point[name];
    const share = control.logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    if (Math.abs(Number(range.value) - STEPS * share) >= 0.5) range.value = Math.round(STEPS * share);
    const words = shown(value, Math.abs(value) < 0.1 ? 3 : 4);
    number.value = words;
    range.setAttribute("aria-valuetext", `${words} ${control.unit}`);
    range.style.setProperty("--share", share);
  }

  // What it does

  listen() {
    this.receive = (message, buffers) => this.answered(message, buffers);
    this.stale = true; // what styles and sizes are is asked for again only after they changed
    this.model.on("msg:custom", this.receive);
    this.again = () => {
      this.stale = true;
      this.paint();
    };
    this.repaint = () => {
      this.again();
      setTimeout(this.again, 500); // while styles change, nothing has a size
    };
    this.theme = new MutationObserver(this.repaint);
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    this.size = new ResizeObserver(this.again);
    for (const panel of this.panels) this.size.observe(panel.canvas);
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.repaint);
    for (const panel of [this.density, this.strikes]) this.pointed(panel);
  }

  /** The strike follows a pointer pressed on a panel over it. */
  pointed(panel) {
    const control = this.about.controls.at(-1);
    const follow = (event) => {
      const k = Math.min(Math.max(panel.at(event), control.low), control.high);
      this.move({ [control.name]: Number(k.toPrecision(4)) }, event.timeStamp);
    };
    panel.canvas.classList.add("smc-pointed");
    panel.canvas.title = "press and drag to move the strike";
    panel.canvas.addEventListener("pointerdown", (event) => {
      panel.canvas.setPointerCapture(event.pointerId);
      follow(event);
    });
    panel.canvas.addEventListener("pointermove", (event) => panel.canvas.hasPointerCapture(event.pointerId) && follow(event));
  }

  move(changes, when = performance.now()) {
    Object.assign(this.point, changes);
    for (const name of Object.keys(changes)) if (this.inputs.has(name)) this.place(name);
    this.changed(when);
    this.settle();
  }

  changed(when) {
    this.since = when;
    this.pending = true;
    this.pump();
  }

  /** Ask for the simulated law once nothing has moved for a while. */
  settle() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.ask(true), REST);
  }

  pump() {
    if (this.pending && !this.waiting) this.ask(false);
  }

  ask(rest) {
    if (rest && this.waiting) return this.settle();
    this.pending = false;
    this.waiting = true;
    this.sent += 1;
    this.asked = rest ? null : this.since;
    clearTimeout(this.lost);
    this.lost = setTimeout(() => this.unanswered(), PATIENCE);
    const { point, kind, quantity } = this;
    try {
      this.model.send({ id: this.sent, view: this.id, point: { ...point }, kind, quantity, rest });
    } catch {
      this.unanswered();
    }
    return undefined;
  }

  unanswered() {
    this.waiting = false;
    this.status.textContent = "no answer from the kernel: is it running? Run the cell again.";
  }

  answered(message, buffers) {
    if (message.view !== this.id || message.id !== this.sent) return;
    clearTimeout(this.lost);
    if (message.error) {
      this.status.textContent = message.error;
      this.waiting = false;
      this.pump();
      return;
    }
    this.waiting = false;
    const answer = { ...message, arrays: unpacked(message.arrays, buffers[0]), asked: this.asked };
    const draw = () => {
      if (this.closed) return;
      this.answer = this.next;
      this.next = null;
      this.drawn(this.answer, this.paint());
    };
    if (!this.next && document.hidden) setTimeout(draw);
    else if (!this.next) requestAnimationFrame(draw);
    this.next = answer; // one that comes before the frame is drawn takes its place
    this.pump(); // the kernel works while the page draws
  }

  drawn(answer, words) {
    const now = performance.now();
    const latency = answer.asked === null ? null : now - answer.asked;
    this.root.dataset.drawn = Number(this.root.dataset.drawn ?? 0) + 1;
    this.root.dispatchEvent(new CustomEvent("spectralmc:drawn", { bubbles: true, detail: { latency, rest: answer.rest, now } }));
    if (answer.rest) this.status.textContent = `${PLURAL[this.kind]}: ${words}`;
    if (latency !== null) {
      this.times = [...(this.times ?? []).filter((time) => now - time < 1000), now];
      this.speed.textContent = `${Math.round(latency)} ms · ${this.times.length} redraws in the last second`;
    }
  }

  // What it looks like

  colours() {
    const light = document.body.dataset.jpThemeLight;
    this.root.dataset.theme = (light ? light === "false" : this.scheme.matches) ? "dark" : "light";
    const style = getComputedStyle(this.root);
    const names = ["exact", "simulated", "learned", "ink", "soft", "grid", "axis", "paper", "shade", "band"];
    return { ...Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--smc-${name}`).trim()])), font: style.fontFamily };
  }

  paint() {
    if (!this.answer || this.closed) return "";
    if (this.stale || this.panels.some((panel) => !panel.width)) {
      this.looks = this.colours();
      for (const panel of this.panels) panel.measure();
      this.stale = false;
    }
    const colours = this.looks;
    const seen = (law) => !this.hidden.has(law);
    const k = this.point[this.about.controls.at(-1).name];
    if (this.density.begin(colours)) drawDensity(this.density, this.answer, seen, this.about.levels, k);
    if (this.strikes.begin(colours)) drawStrikes(this.strikes, this.answer, seen, k, this.kind, this.quantity);
    if (this.plane.begin(colours)) drawPlane(this.plane, this.answer, seen);
    this.tell();
    return this.price.begin(colours) ? drawPrice(this.price, this.answer, seen, this.about, this.kind) : "";
  }

  /** Fill the table of Greeks. */
  tell() {
    const { greeks, scalars } = this.answer;
    const laws = LAWS.filter((law) => greeks[law]);
    if (!laws.length) return;
    const free = this.about.controls.filter((control) => laws.some((law) => control.name in greeks[law]));
    const rows = [...Object.entries(GREEKS), ...free.map((c) => [c.name, [`∂V/∂${c.symbol || c.label}`, ""]])];
    if (!this.cells) {
      const table = node("table", "", this.greeks);
      this.caption = node("caption", "", table);
      const top = node("tr", "", node("thead", "", table));
      node("th", "", top, "").setAttribute("scope", "col");
      for (const law of laws) node("th", `smc-${law}`, top, law).setAttribute("scope", "col");
      const body = node("tbody", "", table);
      this.cells = rows.map(([name, [sign, words]]) => {
        const row = node("tr", "", body);
        const head = node("th", "", row);
        head.setAttribute("scope", "row");
        symbol(head, sign);
        if (words) node("span", "", head, words);
        return laws.map((law) => [law, name, node("td", "", row)]);
      });
    }
    this.caption.textContent = `Greeks of the ${this.kind}, spot ${shown(this.about.spot, 5)}, strike ${shown(scalars.strike, 4)}`;
    for (const [law, name, cell] of this.cells.flat()) cell.textContent = shown(greeks[law][name], name === "value" ? 5 : 4);
  }

  close() {
    this.closed = true;
    clearTimeout(this.resting);
    clearTimeout(this.lost);
    this.model.off("msg:custom", this.receive);
    this.theme.disconnect();
    this.size.disconnect();
    this.scheme.removeEventListener("change", this.repaint);
  }
}

// The looks of the three laws, as in every figure of the library.
const KEYS = {
  exact: '<svg viewBox="0 0 28 12" aria-hidden="true"><path d="M1 6H27"/></svg>',
  simulated: '<svg viewBox="0 0 28 12" aria-hidden="true"><path d="M14 1V11M11 1H17M11 11H17"/><circle cx="14" cy="6" r="2.6"/></svg>',
  learned: '<svg viewBox="0 0 28 12" aria-hidden="true"><path d="M1 6H27" stroke-dasharray="7 3.5"/></svg>',
};

/** The arrays of an answer by name. */
function unpacked(names, buffer) {
  const view = buffer instanceof ArrayBuffer ? new DataView(buffer) : buffer;
  const values = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const arrays = {};
  let first = 0;
  for (const [name, length] of names) {
    arrays[name] = values.subarray(first, first + length);
    first += length;
  }
  return arrays;
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export default { render };
