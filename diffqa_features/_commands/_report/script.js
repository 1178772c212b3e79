"use strict";
(() => {
  const PAGE = 120;
  const BINS = 24;
  // Orange to blue, told apart by people with any colour vision; numbers stand beside.
  const TONES = [[178, 73, 15], [221, 139, 62], [160, 160, 152], [88, 150, 205], [38, 104, 178]];
  const MAP_TONES = [[150, 20, 170], [240, 60, 110], [255, 150, 50], [255, 244, 140]];

  const byId = (name) => document.getElementById(name);
  // Pictures stay text in their elements until somebody looks at them.
  const read = (name) => {
    const element = byId(name);
    return element && JSON.parse(element.textContent);
  };
  const settings = read("settings");
  const compare = settings.compare;
  const rows = [];
  for (let row; (row = read(`row-${rows.length}`)); ) {
    row.index = rows.length;
    row.text = `${row.folder}/${row.name}`.toLowerCase();
    row.value = compare ? row.change : row.score;
    rows.push(row);
  }

  // -- small helpers --

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) {
        element.setAttribute(name, value === true ? "" : value);
      }
    }
    element.append(...children);
    return element;
  }
  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
  const mix = (tones, share) => {
    const at = Math.min(Math.max(share, 0), 1) * (tones.length - 1);
    const low = Math.min(Math.floor(at), tones.length - 2);
    return tones[low].map((tone, k) => Math.round(tone + (tones[low + 1][k] - tone) * (at - low)));
  };
  function quantile(sorted, share) {
    const at = (sorted.length - 1) * share;
    const low = Math.floor(at);
    return sorted[low] + ((sorted[low + 1] ?? sorted[low]) - sorted[low]) * (at - low);
  }

  // -- the scale --

  const values = rows.map((row) => row.value).sort((a, b) => a - b);
  const [lowest, highest] = values.length ? [values[0], values[values.length - 1]] : [0, 1];
  const domain = findDomain();
  const digits = domain[1] - domain[0] > 40 ? 0 : compare || domain[1] - domain[0] < 4 ? 2 : 1;

  function findDomain() {
    if (compare) {
      const reach = Math.max(Math.abs(lowest), Math.abs(highest)) || 1;
      return [-reach, reach];
    }
    if (settings.best !== null) return [Math.min(Math.floor(lowest), settings.best - 6), settings.best];
    return lowest < highest ? [lowest, highest] : [lowest - 0.5, highest + 0.5];
  }
  const share = (value) => Math.min(Math.max((value - domain[0]) / (domain[1] - domain[0]), 0), 1);
  const tone = (value) => `rgb(${mix(TONES, share(value)).join(" ")})`;
  const plain = (value) => value.toFixed(digits).replace("-", "−");
  const signed = (value) => (value > 0 ? "+" : "") + plain(value);
  const spoken = (value) => (compare ? signed(value) : plain(value));
  const unit = settings.unit === "JOD" ? "JOD" : "";

  // -- what is shown, and its address --

  const ORDERS = compare
    ? { low: "Most worsened first", high: "Most improved first", large: "Largest change first", name: "Name" }
    : { low: "Lowest score first", high: "Highest score first", name: "Name" };
  if (!compare && rows.some((row) => row.low !== undefined)) ORDERS.unsure = "Least certain first";
  const COMPARISONS = {
    low: (a, b) => a.value - b.value,
    high: (a, b) => b.value - a.value,
    large: (a, b) => Math.abs(b.value) - Math.abs(a.value),
    unsure: (a, b) => b.high - b.low - (a.high - a.low),
    name: (a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : 0),
  };
  const EMPTY = { q: "", fault: "", folder: "", from: "", to: "", twins: "", sort: "low", view: "", page: "1", open: "" };
  const FILTERS = ["q", "fault", "folder", "from", "to", "twins"];
  const state = { ...EMPTY };
  let found = [];

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(EMPTY)) state[name] = given.get(name) ?? EMPTY[name];
    if (!ORDERS[state.sort]) state.sort = "low";
  }
  function writeAddress() {
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== EMPTY[name]) words.set(name, value);
    const text = words.toString();
    if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname);
  }
  function change(changes) {
    Object.assign(state, { page: "1", open: "" }, changes);
    show();
  }

  // -- groups --

  // What all folders begin with says nothing; the name of the report does.
  const parts = rows.map((row) => row.folder.split("/"));
  let shared = 0;
  while (parts.length && parts.every((part) => part.length > shared && part[shared] === parts[0][shared])) shared += 1;
  const inside = (row) => row.folder.split("/").slice(shared).join("/");
  const label = (fault) => fault.replaceAll("_", " ");
  const labels = (row) => row.faults.map(label).join(", ");
  const copies = new Map();
  for (const row of rows) copies.set(row.pictures, (copies.get(row.pictures) || 0) + 1);
  const isTwin = (row) => copies.get(row.pictures) > 1;
  const faults = new Map();
  const folders = new Map();
  for (const row of rows) {
    // Faults that nobody has are listed too: their absence says something.
    for (const [name] of row.chances || []) faults.set(name, faults.get(name) || 0);
    for (const name of row.faults) faults.set(name, (faults.get(name) || 0) + 1);
    folders.set(row.folder, (folders.get(row.folder) || 0) + 1);
  }

  // -- filters --

  function matches(row, text) {
    return (
      (!text || row.text.includes(text)) &&
      (!state.fault || row.faults.includes(state.fault)) &&
      (!state.folder || row.folder === state.folder) &&
      (state.from === "" || row.value >= Number(state.from)) &&
      (state.to === "" || row.value <= Number(state.to)) &&
      (!state.twins || isTwin(row))
    );
  }
  function show() {
    const text = state.q.toLowerCase();
    found = rows.filter((row) => matches(row, text)).sort(COMPARISONS[state.sort]);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = String(Math.min(Math.max(1, Number(state.page) || 1), pages));
    for (const name of ["q", "folder", "sort", "from", "to"]) {
      if (byId(name).value !== state[name]) byId(name).value = state[name];
    }
    byId("twins").checked = Boolean(state.twins);
    byId("table-view").checked = Boolean(state.view);
    byId("clear").hidden = !FILTERS.some((name) => state[name]);
    for (const button of byId("faults").children) {
      button.setAttribute("aria-pressed", String(button.dataset.fault === state.fault));
    }
    showHistogram();
    showPage(pages);
    writeAddress();
    showViewer();
  }
  function showPage(pages) {
    const start = (Number(state.page) - 1) * PAGE;
    const page = found.slice(start, start + PAGE);
    const things = compare ? ["pair", "pairs"] : ["file", "files"];
    byId("count").textContent =
      found.length === rows.length
        ? count(rows.length, ...things)
        : `${found.length.toLocaleString("en")} of ${count(rows.length, ...things)}`;
    byId("pages").hidden = pages < 2;
    byId("page-number").textContent = `Page ${state.page} of ${pages}`;
    byId("previous-page").disabled = state.page === "1";
    byId("next-page").disabled = state.page === String(pages);
    const table = Boolean(state.view);
    byId("grid").hidden = table;
    byId("table").hidden = !table;
    byId("grid").replaceChildren(...(table ? [] : page.map(makeCard)));
    byId("table").tBodies[0].replaceChildren(...(table ? page.map(makeLine) : []));
  }

  // -- cards and lines --

  function makeTrack(row) {
    const track = make("span", { class: "track", "aria-hidden": "true" });
    const [from, to] = compare ? [Math.min(0, row.change), Math.max(0, row.change)] : [row.low, row.high];
    track.style.setProperty("--tone", tone(row.value));
    track.style.setProperty("--at", `${100 * share(row.value)}%`);
    if (from !== undefined) {
      track.style.setProperty("--low", `${100 * share(from)}%`);
      track.style.setProperty("--high", `${100 - 100 * share(to)}%`);
      track.append(make("i"));
    }
    track.append(make("b"));
    return track;
  }
  const interval = (row) => (row.low === undefined ? "" : `${plain(row.low)} to ${plain(row.high)}`);
  function makeCard(row) {
    const frame = make("span", { class: "frame" });
    const picture = make("img", { alt: `Small copy of ${row.name}`, src: read(`thumb-${row.pictures}`) || "data:," });
    frame.append(picture);
    if (row.scores !== undefined) frame.append(make("span", { class: "tag" }, row.times ? "Video" : "Frames"));
    if (isTwin(row)) frame.append(make("span", { class: "tag" }, count(copies.get(row.pictures), "copy", "copies")));
    const score = make("span", { class: "score" }, spoken(row.value), " ");
    score.append(make("small", {}, unit));
    const line = make("span", { class: "line" }, score);
    line.append(make("span", { class: "faults" }, compare ? `${plain(row.before)} → ${plain(row.score)}` : labels(row)));
    const name = make("span", { class: "name", title: `${row.folder}/${row.name}` }, row.name);
    if (inside(row)) name.append(make("span", {}, `  ${inside(row)}`));
    const button = make("button", { class: "card", type: "button", "data-index": row.index }, frame, line, makeTrack(row), name);
    return make("li", {}, button);
  }
  function makeLine(row) {
    const button = make("button", { class: "card", type: "button", "data-index": row.index }, row.name);
    const cells = [make("th", { scope: "row" }, button)];
    const numbers = compare ? [row.before, row.score].map(plain).concat(signed(row.change)) : [plain(row.score), interval(row)];
    for (const number of numbers) cells.push(make("td", { class: "number" }, number));
    for (const text of [labels(row), row.folder]) cells.push(make("td", {}, text));
    return make("tr", {}, ...cells);
  }

  // -- charts --

  const WIDTH = 600;
  const HEIGHT = 196;
  const edges = findEdges();
  const bins = new Array(edges.length - 1).fill(0);
  for (const value of values) {
    let k = bins.length - 1;
    while (k > 0 && value < edges[k]) k -= 1;
    bins[k] += 1;
  }
  function findEdges() {
    const width = (domain[1] - domain[0]) / BINS;
    return Array.from({ length: BINS + 1 }, (_, k) => Number((domain[0] + k * width).toFixed(6)));
  }
  function showHistogram() {
    const most = Math.max(...bins, 1);
    const [from, to] = [state.from === "" ? -Infinity : Number(state.from), state.to === "" ? Infinity : Number(state.to)];
    const half = values.length ? `half between ${plain(quantile(values, 0.25))} and ${plain(quantile(values, 0.75))}` : "";
    const svg = draw("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      preserveAspectRatio: "none",
      "aria-label": `Histogram from ${spoken(domain[0])} to ${spoken(domain[1])}; ${half}`,
    });
    const step = WIDTH / bins.length;
    svg.append(draw("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }));
    bins.forEach((number, k) => {
      const [left, right] = [edges[k], edges[k + 1]];
      const height = number ? Math.max(3, (HEIGHT - 8) * (number / most)) : 0;
      const bar = draw("rect", {
        x: k * step + 1,
        width: step - 2,
        y: HEIGHT - 1 - height,
        height,
        rx: 2,
        fill: tone((left + right) / 2),
      });
      if (right <= from || left >= to) bar.setAttribute("class", "out");
      bar.append(draw("title", {}, `${spoken(left)} to ${spoken(right)}: ${number.toLocaleString("en")}`));
      bar.addEventListener("click", () => {
        const same = state.from === String(left) && state.to === String(right);
        change(same ? { from: "", to: "" } : { from: String(left), to: String(right) });
      });
      svg.append(bar);
    });
    const axis = make("div", { class: "axis", "aria-hidden": "true" });
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      axis.append(make("span", {}, spoken(domain[0] + part * (domain[1] - domain[0]))));
    }
    byId("histogram").replaceChildren(svg, axis);
  }
  function showScatter() {
    const place = byId("scatter");
    if (!place) return;
    const [width, height] = [place.clientWidth || 300, HEIGHT];
    const ratio = window.devicePixelRatio || 1;
    const canvas = make("canvas", {
      width: width * ratio,
      height: height * ratio,
      role: "img",
      "aria-label": "Score before, to the right, against score after, upwards; below the line is worse",
    });
    const pen = canvas.getContext("2d");
    const both = rows.flatMap((row) => [row.before, row.score]);
    const low = both.reduce((a, b) => Math.min(a, b), Infinity);
    const high = both.reduce((a, b) => Math.max(a, b), -Infinity);
    const at = (value) => (value - low) / (high - low || 1);
    pen.scale(ratio, ratio);
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.globalAlpha = 0.35;
    pen.beginPath();
    pen.moveTo(6, height - 6);
    pen.lineTo(width - 6, 6);
    pen.stroke();
    pen.globalAlpha = rows.length > 500 ? 0.4 : 0.8;
    for (const row of rows) {
      pen.fillStyle = tone(row.change);
      pen.beginPath();
      pen.arc(6 + at(row.before) * (width - 12), height - 6 - at(row.score) * (height - 12), 3, 0, 2 * Math.PI);
      pen.fill();
    }
    const axis = make("div", { class: "axis", "aria-hidden": "true" });
    axis.append(make("span", {}, plain(low)), make("span", {}, "before →  after ↑"), make("span", {}, plain(high)));
    place.replaceChildren(canvas, axis);
  }

  // -- the large view --

  const viewer = byId("viewer");
  let opened = null;
  let overlayOn = true;

  function showViewer() {
    const row = state.open === "" ? undefined : rows[Number(state.open)];
    if (!row) {
      if (viewer.open) viewer.close();
      return;
    }
    if (!viewer.open) viewer.showModal();
    if (opened === row) return;
    opened = row;
    const at = found.indexOf(row);
    byId("viewer-name").textContent = row.name;
    byId("place").textContent = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")}`;
    byId("earlier").disabled = at <= 0;
    byId("later").disabled = at < 0 || at === found.length - 1;
    showLayers(row);
    showFacts(row);
  }
  function showLayers(row) {
    const after = read(`large-${row.pictures}`) || read(`thumb-${row.pictures}`);
    const before = compare && (read(`before-large-${row.pictures}`) || read(`before-thumb-${row.pictures}`));
    setPicture(byId("base"), compare ? before : after, compare ? `${row.name}, before` : row.name);
    setPicture(byId("other"), before ? after : null, `${row.name}, after`);
    if (compare && !before) setPicture(byId("base"), after, `${row.name}, after`);
    const map = read(`map-${row.pictures}`);
    if (map) drawMap(row, map);
    byId("map").dataset.drawn = map ? "1" : "";
    byId("overlay").hidden = !map && !(before && after);
    byId("overlay-name").textContent = compare ? "Show after, over before" : "Show where loss is predicted";
    byId("legend").hidden = !map;
    byId("overlay-on").checked = overlayOn;
    showOverlay();
  }
  function setPicture(image, source, alt) {
    image.hidden = !source;
    if (source) image.src = source;
    else image.removeAttribute("src");
    image.alt = source ? alt : "";
  }
  function showOverlay() {
    overlayOn = byId("overlay-on").checked;
    byId("map").hidden = !overlayOn || !byId("map").dataset.drawn;
    byId("other").hidden = !overlayOn || !byId("other").hasAttribute("src");
    byId("layers").style.setProperty("--opacity", String(Number(byId("opacity").value) / 100));
    byId("opacity").disabled = !overlayOn;
  }
  function drawMap(row, map) {
    // On a canvas of the picture's proportions, so that both are fitted alike.
    const [height, width] = map.shape;
    const small = make("canvas", { width, height });
    const pen = small.getContext("2d");
    const pixels = pen.createImageData(width, height);
    const levels = atob(map.levels);
    for (let k = 0; k < levels.length; k += 1) {
      const level = levels.charCodeAt(k) / 255;
      pixels.data.set([...mix(MAP_TONES, level), Math.round(255 * Math.min(1, 1.6 * level))], 4 * k);
    }
    pen.putImageData(pixels, 0, 0);
    const canvas = byId("map");
    const scale = 512 / Math.max(...row.size);
    canvas.width = Math.max(1, Math.round(row.size[0] * scale));
    canvas.height = Math.max(1, Math.round(row.size[1] * scale));
    const large = canvas.getContext("2d");
    large.imageSmoothingQuality = "high";
    large.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
  function showFacts(row) {
    const place = byId("viewer-facts");
    const score = make("span", { class: "score" }, spoken(row.value), " ", make("small", {}, compare ? "change" : unit));
    place.replaceChildren(score, makeTrack(row));
    const title = (text) => place.append(make("h3", {}, text));
    if (compare) place.append(make("p", {}, `${plain(row.before)} before, ${plain(row.score)} after`));
    else if (row.low !== undefined) place.append(make("p", {}, `between ${plain(row.low)} and ${plain(row.high)}`));
    if (row.scores !== undefined) showFrames(row, place, title);
    if (row.chances && row.chances.length) {
      title("Kinds of fault, probability");
      const list = make("dl", { class: "bars" });
      for (const [name, chance] of row.chances) {
        const bar = make("i");
        bar.style.setProperty("--share", `${100 * chance}%`);
        const line = make("div", { class: row.faults.includes(name) ? "likely" : null }, make("dt", {}, label(name)));
        line.append(make("dd", {}, bar, make("span", {}, `${Math.round(100 * chance)} %`)));
        list.append(line);
      }
      place.append(list);
    } else if (row.faults.length) {
      title("Fault after");
      place.append(make("p", {}, labels(row)));
    }
    const detail = read(`detail-${row.pictures}`);
    if (detail) {
      title("Pixel for pixel, where most is lost");
      place.append(make("img", { class: "detail", src: detail, alt: "Detail at full resolution" }));
    }
    if (isTwin(row)) {
      title("Same content");
      const list = make("ul", { class: "links" });
      for (const twin of rows) {
        if (twin === row || twin.pictures !== row.pictures) continue;
        list.append(make("li", {}, make("button", { type: "button", "data-open": twin.index }, `${twin.folder}/${twin.name}`)));
      }
      place.append(list);
    }
    title("File");
    const facts = [row.folder];
    if (row.size) facts.push(`${row.size[0]} × ${row.size[1]} pixels`);
    if (row.bytes) facts.push(row.bytes < 1e6 ? `${Math.ceil(row.bytes / 1e3)} kB` : `${(row.bytes / 1e6).toFixed(1)} MB`);
    for (const fact of facts) place.append(make("p", {}, fact));
    if (!byId(`large-${row.pictures}`) && byId(`thumb-${row.pictures}`)) {
      place.append(make("p", {}, "Only a small copy is in this page (--large-views)."));
    }
  }
  function showFrames(row, place, title) {
    title(row.scores ? (row.times ? "Score over time" : "Score by frame") : "Frames");
    const moment = (k) => (row.times ? `${row.times[k].toFixed(1)} s` : `frame ${k + 1}`);
    if (row.scores) place.append(makeCurve(row, moment));
    const strip = make("ol", { class: "strip" });
    (read(`strip-${row.pictures}`) || []).forEach((source, k) => {
      const text = row.scores ? `${moment(k)}, ${plain(row.scores[k])}` : moment(k);
      strip.append(make("li", {}, make("img", { src: source, alt: `Frame at ${text}` }), text));
    });
    place.append(strip);
  }
  function makeCurve(row, moment) {
    const [width, height] = [312, 110];
    const scores = row.scores;
    const low = Math.min(...scores);
    const high = Math.max(...scores);
    const pad = Math.max((high - low) * 0.15, 0.25 * 10 ** (1 - digits));
    const times = row.times || scores.map((_, k) => k);
    const end = times[times.length - 1] - times[0] || 1;
    const points = scores.map((score, k) => [
      30 + ((times[k] - times[0]) / end) * (width - 36),
      6 + (1 - (score - low + pad) / (high - low + 2 * pad)) * (height - 28),
    ]);
    const svg = draw("svg", {
      class: "curve",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `Score from ${plain(low)} to ${plain(high)} over ${scores.length} frames`,
    });
    svg.append(draw("line", { x1: 30, x2: width - 6, y1: height - 20, y2: height - 20 }));
    svg.append(draw("polyline", { points: points.map((point) => point.join(",")).join(" ") }));
    for (const [x, y] of points) svg.append(draw("circle", { cx: x, cy: y, r: 3 }));
    svg.append(draw("text", { x: 0, y: Math.min(...points.map((p) => p[1])) + 4 }, plain(high)));
    if (high > low) svg.append(draw("text", { x: 0, y: Math.max(...points.map((p) => p[1])) + 4 }, plain(low)));
    svg.append(draw("text", { x: 30, y: height - 4 }, moment(0)));
    svg.append(draw("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, moment(scores.length - 1)));
    return svg;
  }
  function open(index) {
    state.open = String(index);
    writeAddress();
    showViewer();
  }
  function step(by) {
    const next = found[found.indexOf(opened) + by];
    if (next) open(next.index);
  }
  viewer.addEventListener("close", () => {
    const row = opened;
    opened = null;
    state.open = "";
    const at = found.indexOf(row);
    if (at >= 0) state.page = String(Math.floor(at / PAGE) + 1);
    show();
    const card = row && document.querySelector(`.card[data-index="${row.index}"]`);
    if (card) card.focus();
  });
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("[data-open]");
    if (button) open(Number(button.dataset.open));
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      event.preventDefault();
      step(event.key === "ArrowRight" ? 1 : -1);
    }
  });
  byId("earlier").addEventListener("click", () => step(-1));
  byId("later").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => viewer.close());
  byId("overlay-on").addEventListener("change", showOverlay);
  byId("opacity").addEventListener("input", showOverlay);

  // -- the list: mouse and keys --

  byId("results").addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) open(Number(card.dataset.index));
  });
  byId("results").addEventListener("keydown", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    const cards = [...document.querySelectorAll("#results .card")];
    const at = cards.indexOf(card);
    const top = cards[0].getBoundingClientRect().top;
    const across = cards.filter((other) => other.getBoundingClientRect().top === top).length;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -at, End: cards.length - 1 - at };
    const to = cards[at + moves[event.key]];
    if (to) {
      event.preventDefault();
      to.focus();
    }
  });
  for (const [name, by] of [["previous-page", -1], ["next-page", 1]]) {
    byId(name).addEventListener("click", () => {
      change({ page: String(Number(state.page) + by) });
      byId("results").focus({ preventScroll: true });
      byId("results").scrollIntoView();
    });
  }
  let waiting = 0;
  byId("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ q: byId("q").value }), 120);
  });
  for (const name of ["folder", "sort", "from", "to"]) {
    byId(name).addEventListener("change", () => change({ [name]: byId(name).value }));
  }
  byId("twins").addEventListener("change", () => change({ twins: byId("twins").checked ? "1" : "" }));
  byId("table-view").addEventListener("change", () => change({ view: byId("table-view").checked ? "table" : "" }));
  byId("clear").addEventListener("click", () => {
    change(Object.fromEntries(FILTERS.map((name) => [name, ""])));
    byId("q").focus();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => {
    readAddress();
    show();
  });

  window.addEventListener("resize", showScatter);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showScatter);

  // -- once --

  function begin() {
    // One over the other, a map lets the picture through; a picture hides the other.
    byId("opacity").value = compare ? 100 : 60;
    for (const [name, text] of Object.entries(ORDERS)) byId("sort").append(make("option", { value: name }, text));
    byId("folder").append(make("option", { value: "" }, "All"));
    for (const name of [...folders.keys()].sort()) {
      byId("folder").append(make("option", { value: name }, `${name} (${folders.get(name).toLocaleString("en")})`));
    }
    byId("folder-field").hidden = folders.size < 2;
    byId("twins-field").hidden = copies.size === rows.length;
    byId("fault-panel").hidden = faults.size === 0;
    const most = Math.max(...faults.values(), 1);
    for (const [name, number] of [...faults].sort((a, b) => b[1] - a[1])) {
      const bar = make("i");
      bar.style.width = `${(100 * number) / most}%`;
      const button = make("button", { type: "button", "data-fault": name, class: number ? null : "none" }, make("span", {}, label(name)));
      button.append(make("span", {}, bar), make("span", {}, number.toLocaleString("en")));
      button.addEventListener("click", () => change({ fault: state.fault === name ? "" : name }));
      byId("faults").append(button);
    }
    const heads = compare
      ? [["File"], ["Before", "number"], ["After", "number"], ["Change", "number"], ["Fault after"], ["Folder"]]
      : [["File"], [unit || "Score", "number"], ["Interval", "number"], ["Faults"], ["Folder"]];
    byId("table").tHead.append(make("tr", {}, ...heads.map(([text, kind]) => make("th", { scope: "col", class: kind }, text))));
    byId("summary").textContent = summarise();
    showScatter();
    readAddress();
    show();
  }
  function summarise() {
    if (!rows.length) return "Nothing to show.";
    if (compare) {
      const worse = rows.filter((row) => row.change < 0).length;
      const better = rows.filter((row) => row.change > 0).length;
      return `${count(rows.length, "pair", "pairs")}: ${better.toLocaleString("en")} better, ${worse.toLocaleString("en")} worse`;
    }
    const parts = [count(rows.length, "file", "files"), `median ${plain(quantile(values, 0.5))} ${unit}`.trim()];
    if (rows.length > 3) parts.push(`half between ${plain(quantile(values, 0.25))} and ${plain(quantile(values, 0.75))}`);
    const twins = rows.filter(isTwin).length;
    if (twins) parts.push(`${count(twins, "duplicate", "duplicates")}`);
    return parts.join(" · ");
  }
  begin();
})();
