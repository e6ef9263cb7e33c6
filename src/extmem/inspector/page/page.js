// The page of the inspector. Everything that programs said is put in as text, never as markup.

import { plot, SECONDS } from "./plots.js";

const ROWS = 50; // objects that are in the page at the same time
const STREAM_PAUSE = 150, OBJECT_PAUSE = 1000; // milliseconds between two pictures
const PROCESSES = 40;

const by = (id) => document.getElementById(id);
const streams = new Map();
const history = new Map(); // of a stream: [seconds, rate, latency, missed]
let objects = [];
let selected = null; // {kind: "stream" or "object", id}
let chosen = false; // by a person, and not by us
let page = 0;
let problem = "";
let unwatched = 0; // streams
let shownPassport = "";

// -- words ------------------------------------------------------------------------------------

const plural = (count, one, many = one + "s") =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

function clean(text) {
  return String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, (each) =>
    `\\u${each.codePointAt(0).toString(16).padStart(4, "0")}`);
}

function bytes(size) {
  if (size === null || size === undefined) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (size >= 1024 && at < 4) { size /= 1024; at += 1; }
  return `${Number.isInteger(size) ? size : size.toFixed(1)} ${units[at]}`;
}

function ago(seconds) {
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= length) return `${Math.round(seconds / length)} ${unit}`;
  }
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

function perSecond(value) {
  return `${value >= 100 ? Math.round(value) : +value.toFixed(value >= 10 ? 1 : 2)}/s`;
}

function micro(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 100000 ? 0 : 1)} ms`;
  return `${Math.round(value)} µs`;
}

function called(object) {
  if (object.kmt !== null) return `KMT ${object.kmt}`;
  return object.name === null ? `(no name, no. ${object.identity})` : clean(object.name);
}

// "camera.py", where the kernel knows "python3".
function maker(object) {
  const exporter = object.exporter;
  const same = exporter && exporter.process_id === object.owner.process_id && exporter.program &&
    !exporter.program.startsWith("-");
  return same ? { ...object.owner, program: exporter.program } : object.owner;
}

function who(person) {
  const program = person.program ? clean(person.program) : "process";
  return { title: `${program} ${person.process_id}`, id: person.process_id };
}

// -- small things of the document ---------------------------------------------------------------

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(kind, name = "", text = "") {
  const element = document.createElement(kind);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

// Rows that stay the same elements while what they show stays: focus is not lost.
function rows(list, wanted, empty) {
  const there = new Map([...list.children].map((each) => [each.dataset.key, each]));
  const order = wanted.map((each) => {
    const item = there.get(each.key) || newRow(each);
    const button = item.firstChild;
    const [dot, name, figure, under] = button.children;
    dot.className = `dot ${each.state}`;
    put(name, each.name);
    put(figure, each.figure);
    put(under, each.under);
    button.title = each.name;
    const current = selected !== null && each.key === `${selected.kind} ${selected.id}`;
    button.setAttribute("aria-current", String(current));
    return item;
  });
  if (!order.length) order.push(make("li", "empty", empty));
  const same = order.length === list.children.length &&
    order.every((each, at) => each === list.children[at]);
  if (same) return;
  const focused = document.activeElement;
  list.replaceChildren(...order);
  if (focused && list.contains(focused)) focused.focus({ preventScroll: true });
}

function newRow(each) {
  const item = make("li");
  item.dataset.key = each.key;
  const button = item.appendChild(make("button"));
  button.type = "button";
  const dot = button.appendChild(make("span", "dot"));
  dot.setAttribute("aria-hidden", "true");
  button.append(make("span", "name"), make("span", "figure"), make("span", "under"));
  button.addEventListener("click", () => select(each.kind, each.id, true));
  return item;
}

function facts(list, pairs) {
  const parts = [];
  for (const [name, value, code] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    if (value === true) { parts.push(make("dt", "part", name)); continue; }
    parts.push(make("dt", "", name), make("dd", code ? "code" : "", clean(value)));
  }
  const text = (each) => `${each.tagName} ${each.textContent}`;
  if ([...list.children].map(text).join("\n") !== parts.map(text).join("\n")) {
    list.replaceChildren(...parts);
  }
}

// -- lists ---------------------------------------------------------------------------------------

function matches(words) {
  const wanted = by("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = words.join(" ").toLowerCase();
  return wanted.every((each) => text.includes(each));
}

const STATES = {
  reaching: "being asked", running: "running", died: "publisher died", ended: "ended",
  full: "no seat to look through", unreachable: "does not answer",
};

function formatOf(stream) {
  return stream.shape ? `${stream.shape.join("×")} ${stream.dtype}` : "";
}

function streamWords(each) {
  return [each.name, each.state, each.program || "", String(each.publisher || ""), formatOf(each)];
}

function objectWords(each) {
  return [called(each), each.kind, each.handle_type || "", each.device_name || "",
    each.owner.program, String(each.owner.process_id),
    ...each.holders.map((one) => `${one.program} ${one.process_id}`),
    each.exporter ? each.exporter.program : ""];
}

function showLists() {
  const running = [...streams.values()].filter((each) => matches(streamWords(each)));
  rows(by("streams"), running.map((each) => ({
    key: `stream ${each.name}`, kind: "stream", id: each.name, name: each.name, state: each.state,
    figure: each.state === "running" ? perSecond(each.rate || 0) : STATES[each.state],
    under: each.state === "running"
      ? `${formatOf(each)} · ${plural((each.readers || []).length, "reader")}`
      : formatOf(each),
  })), streams.size ? "None matches." : "No program publishes any.");
  put(by("streams-count"), counted(running.length, streams.size) +
    (unwatched ? `, and ${unwatched} more that are not watched` : ""));

  const found = objects.filter((each) => matches(objectWords(each)));
  const pages = Math.max(Math.ceil(found.length / ROWS), 1);
  page = Math.min(page, pages - 1);
  rows(by("objects"), found.slice(page * ROWS, (page + 1) * ROWS).map((each) => ({
    key: `object ${each.identity}`, kind: "object", id: each.identity, name: called(each),
    state: "object", figure: bytes(each.size || each.allocation_size),
    under: `${each.kind} · ${who(maker(each)).title} · ` +
      plural(each.holders.length + each.more_holders, "holder"),
  })), problem || (objects.length ? "None matches." : "No program shares any by a Windows handle."));
  put(by("objects-count"), counted(found.length, objects.length));
  by("pages").hidden = pages < 2;
  put(by("page-number"), `${page + 1} of ${pages}`);
  by("earlier").disabled = page === 0;
  by("later").disabled = page >= pages - 1;
  showProcesses();
}

const counted = (found, all) => found === all ? `${all}` : `${found} of ${all}`;

function showProcesses() {
  const known = new Map();
  const note = (person, what) => {
    const { title, id } = who(person);
    const entry = known.get(id) || { title, publishes: [], reads: [], owns: 0, holds: 0 };
    if (person.program && entry.title.startsWith("process ")) entry.title = title;
    what(entry);
    known.set(id, entry);
  };
  for (const each of streams.values()) {
    if (each.state !== "running") continue;
    note({ process_id: each.publisher, program: each.program },
      (entry) => entry.publishes.push(each.name));
    for (const reader of each.readers || []) {
      note(reader, (entry) => { if (!entry.reads.includes(each.name)) entry.reads.push(each.name); });
    }
  }
  for (const each of objects) {
    note(maker(each), (entry) => { entry.owns += 1; });
    for (const holder of each.holders) {
      if (holder.process_id !== each.owner.process_id) note(holder, (entry) => { entry.holds += 1; });
    }
  }
  const few = (names) => names.slice(0, 6).join(", ") + (names.length > 6 ? ", …" : "");
  const lines = [...known.values()].map((entry) => {
    const said = [];
    if (entry.publishes.length) said.push(`publishes ${few(entry.publishes)}`);
    if (entry.reads.length) said.push(`reads ${few(entry.reads)}`);
    if (entry.owns) said.push(`shares ${plural(entry.owns, "object")}`);
    if (entry.holds) said.push(`holds ${entry.holds} of others`);
    return [entry.title, said.join("; ")];
  }).filter((each) => matches(each));
  put(by("processes-count"), counted(lines.length, known.size));
  const list = by("processes");
  const text = lines.slice(0, PROCESSES).map((each) => each.join("\n")).join("\n\n");
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  list.replaceChildren(...lines.slice(0, PROCESSES).map(([title, said]) => {
    const item = make("li");
    item.append(make("span", "name", title), make("span", "under", said));
    return item;
  }));
  if (!lines.length) list.append(make("li", "empty", known.size ? "None matches." : "No program shares anything."));
}

// -- what is selected ------------------------------------------------------------------------------

function select(kind, id, person = false) {
  chosen = chosen || person;
  if (selected && selected.kind === kind && selected.id === id) return;
  selected = { kind, id };
  shownPassport = "";
  by("passport").replaceChildren();
  window.history.replaceState(null, "", `#${kind}=${encodeURIComponent(id)}`);
  by("picture").classList.remove("old");
  by("figure").hidden = true;
  put(by("caption"), "");
  showLists();
  showDetail();
  askPassport();
  samples.wake();
}

function current() {
  if (!selected) return null;
  if (selected.kind === "stream") return streams.get(selected.id) || null;
  return objects.find((each) => each.identity === selected.id) || null;
}

function notice(text, mild = false) {
  by("notice").hidden = !text;
  by("notice").className = mild ? "mild" : "";
  put(by("notice"), text);
}

function showDetail() {
  const each = current();
  by("welcome").hidden = each !== null || selected !== null;
  by("detail").hidden = selected === null;
  if (selected === null) return;
  by("plots").hidden = selected.kind !== "stream";
  if (each === null) {
    put(by("title"), String(selected.id));
    put(by("subtitle"), "");
    notice(selected.kind === "stream"
      ? "Nobody publishes this stream. The page follows as soon as somebody does."
      : "This object is gone: nobody holds it any more.", true);
    by("picture").classList.add("old");
    return;
  }
  if (selected.kind === "stream") showStream(each); else showObject(each);
}

function showStream(each) {
  put(by("title"), each.name);
  put(by("subtitle"), `Stream · ${formatOf(each)} · ${STATES[each.state]}`);
  const told = {
    died: `Process ${each.publisher ?? "?"}, which published this stream, has died. The page ` +
      "follows as soon as somebody publishes it again.",
    ended: "Its publisher has ended this stream. The page follows as soon as somebody publishes " +
      "it again.",
    full: each.why, unreachable: each.why,
  };
  notice(told[each.state] || "", each.state === "ended");
  by("picture").classList.toggle("old", each.state !== "running");
  const points = history.get(each.name) || [];
  const running = each.state === "running";
  put(by("rate"), running ? perSecond(each.rate || 0) : "–");
  const latencies = points.slice(-20).map((point) => point[2]).filter((value) => value !== null);
  latencies.sort((one, other) => one - other);
  const latency = latencies.length ? latencies[latencies.length >> 1] : null;
  put(by("latency"), running && latency !== null ? micro(latency) : "–");
  put(by("missed"), running ? perSecond(each.missed_per_second || 0) : "–");
  plot(by("rate-plot"), points.map((point) => [point[0], point[1]]), perSecond);
  plot(by("latency-plot"), points.map((point) => [point[0], point[2]]), micro);
  plot(by("missed-plot"), points.map((point) => [point[0], point[3]]), perSecond);
  flow(who({ process_id: each.publisher ?? "?", program: each.program }).title, "publishes",
    (each.readers || []).map((reader) => [who(reader).title,
      `holds ${plural(reader.holds, "slot")}, missed ${reader.missed.toLocaleString("en")}`]),
    "nobody subscribes");
  facts(by("facts"), [
    ["Frame", each.sequence ? `no. ${each.sequence.toLocaleString("en")}` : "none yet"],
    ["Newest is", each.age === null || each.age === undefined ? "" : `${ago(each.age)} old`],
    ["Fields", each.fields, true],
    ["Frame size", bytes(each.frame_bytes)],
    ["Slots", each.slots],
    ["Missed by readers", (each.missed || 0).toLocaleString("en")],
    ["Publisher", `process ${each.publisher ?? "?"}` +
      (each.publishers > 1 ? `, the ${each.publishers}. since the inspector was started` : "")],
  ]);
}

function showObject(each) {
  put(by("title"), called(each));
  put(by("subtitle"), `${each.kind} · ${bytes(each.size || each.allocation_size)}` +
    (each.handle_type ? ` · ${clean(each.handle_type)}` : ""));
  by("picture").classList.remove("old");
  const holders = each.holders.filter((one) => one.process_id !== each.owner.process_id);
  const rest = each.more_holders ? [[plural(each.more_holders, "more process", "more processes"), ""]] : [];
  flow(who(maker(each)).title, "made it", [
    ...holders.map((one) => [who(one).title, `holds ${plural(one.handles, "handle")}`]), ...rest,
  ], "nobody else holds it");
  const own = each.holders.find((one) => one.process_id === each.owner.process_id);
  facts(by("facts"), [
    ["Name", each.name, true],
    ["KMT number", each.kmt],
    ["Made", `${ago(Math.max(Date.now() / 1000 - each.since, 0))} ago`],
    ["Its maker's handles", own ? own.handles : 0],
    ["User", each.lender === null ? each.owner.user_id : `${each.lender}, another one`],
    ["Device", each.device_name],
  ]);
}

function flow(from, does, to, nobody) {
  const text = JSON.stringify([from, does, to]);
  const place = by("flow");
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  const party = (title, small) => {
    const box = make("div", "party", title);
    if (small) box.append(make("small", "", small));
    return box;
  };
  const left = make("div"), right = make("div"), arrow = make("div", "arrow", "→");
  arrow.setAttribute("aria-label", "to");
  left.append(party(from, does));
  right.append(...to.slice(0, 64).map(([title, small]) => party(title, small)));
  if (!to.length) right.append(make("div", "empty", nobody));
  place.replaceChildren(left, arrow, right);
}

async function askPassport() {
  const asked = selected;
  const each = current();
  const key = JSON.stringify([asked, selected && each && each.publishers]);
  if (!asked || !each || key === shownPassport) return;
  if (asked.kind === "stream" && each.state !== "running") return;
  shownPassport = key;
  let found = {};
  try {
    const answer = await fetch(`passport?${asked.kind}=${encodeURIComponent(asked.id)}`);
    if (answer.ok) found = await answer.json();
  } catch { /* the connection is shown elsewhere */ }
  if (selected !== asked) return;
  const pairs = [];
  const part = (data) => {
    for (const [name, value] of Object.entries(data)) {
      const title = name.replaceAll("_", " ");
      if (value !== null && typeof value === "object" && !Array.isArray(value)) continue;
      pairs.push([title, Array.isArray(value) ? value.map((one) => JSON.stringify(one)).join(", ")
        : value === true ? "yes" : value === false ? "no" : value, /uuid|luid|mask/.test(name)]);
    }
    for (const [name, value] of Object.entries(data)) {
      if (value === null || typeof value !== "object" || Array.isArray(value)) continue;
      pairs.push([name.replaceAll("_", " "), true]);
      part(value);
    }
  };
  part(found);
  by("passport-part").hidden = false;
  facts(by("passport"), pairs.length ? pairs : [["", "It has none."]]);
}

// -- pictures ----------------------------------------------------------------------------------------

const samples = {
  shown: "", // what the canvas shows: a stream's frame is not asked for twice
  waker: null,
  wake() { if (this.waker) this.waker(); },
  pause(milliseconds) {
    return new Promise((done) => {
      const timer = setTimeout(done, milliseconds);
      this.waker = () => { clearTimeout(timer); done(); };
    });
  },
  async run() {
    for (;;) {
      const asked = selected;
      const each = current();
      if (asked && each && !document.hidden) await this.take(asked, each);
      await this.pause(asked && asked.kind === "object" ? OBJECT_PAUSE : STREAM_PAUSE);
    }
  },
  async take(asked, each) {
    if (asked.kind === "stream" && each.state !== "running") return;
    let answer, data;
    try {
      answer = await fetch(`picture?${asked.kind}=${encodeURIComponent(asked.id)}`);
      if (!answer.ok) return;
      if (!answer.headers.has("X-Picture")) {
        const { why } = await answer.json();
        if (selected === asked) this.none(asked, clean(why));
        return;
      }
      data = await answer.arrayBuffer();
      if (selected !== asked) return;
    } catch { return; }
    if (asked.kind === "object") notice("");
    this.draw(asked, JSON.parse(answer.headers.get("X-Picture")), data);
  },
  none(asked, why) {
    if (asked.kind === "object") {
      notice(`There is no picture of it: ${why}${why.endsWith(".") ? "" : "."}`, true);
      by("figure").hidden = true;
    } else if (this.shown === asked.id) {
      put(by("caption"), why);
    } else {
      by("figure").hidden = true;
    }
  },
  draw(asked, about, data) {
    const canvas = by("picture");
    if (canvas.width !== about.width) canvas.width = about.width;
    if (canvas.height !== about.height) canvas.height = about.height;
    const pixels = new ImageData(new Uint8ClampedArray(data), about.width, about.height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    // What is tiny is made larger, in whole steps, so that its pixels stay squares.
    const small = Math.max(about.width, about.height) < 320;
    const times = small ? Math.floor(Math.min(480 / about.width, 320 / about.height)) || 1 : 1;
    canvas.style.width = `${about.width * times}px`;
    canvas.classList.toggle("small", small);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Picture of ${asked.id}`);
    const words = [`${about.from.join(" × ")}`];
    if (about.sequence) words.push(`frame ${about.sequence.toLocaleString("en")}`);
    if (about.width !== about.from[0]) words.push(`sampled at ${about.width} × ${about.height}`);
    if (about.note) words.push(about.note);
    if (!about.whole) words.push("overwritten while it was copied: frames come faster");
    put(by("caption"), words.join(" · "));
    canvas.dataset.sequence = about.sequence ?? "";
    by("figure").hidden = false;
    this.shown = asked.id;
  },
};

// -- what the server tells -----------------------------------------------------------------------------

function summarise() {
  const running = [...streams.values()].filter((each) => each.state === "running").length;
  const total = objects.reduce((sum, each) => sum + (each.size || each.allocation_size || 0), 0);
  put(by("summary"), `${plural(running, "running stream")} · ${plural(objects.length, "shared object")}` +
    (objects.length ? `, ${bytes(total)}` : ""));
}

function choose() {
  if (chosen || (selected && current())) return;
  const first = [...streams.values()].find((each) => each.state === "running");
  if (first) select("stream", first.name);
  else if (objects.length) select("object", objects[0].identity);
}

function update() {
  choose();
  showLists();
  showDetail();
  summarise();
  askPassport();
}

function listen() {
  const source = new EventSource("live");
  source.addEventListener("history", (event) => {
    for (const [name, points] of Object.entries(JSON.parse(event.data))) history.set(name, points);
  });
  source.addEventListener("objects", (event) => {
    objects = JSON.parse(event.data).objects;
    shownPassport = selected && selected.kind === "object" ? shownPassport : "";
  });
  source.addEventListener("streams", (event) => {
    const told = JSON.parse(event.data);
    problem = told.problem;
    unwatched = told.unwatched;
    const before = new Map(streams);
    streams.clear();
    for (const each of told.streams) {
      streams.set(each.name, each);
      const points = history.get(each.name) || [];
      const known = before.get(each.name);
      if (each.when !== undefined && (!points.length || each.when > points[points.length - 1][0]) &&
          (!known || known.samples !== each.samples)) {
        points.push([each.when, each.rate, each.latency_us, each.missed_per_second]);
        while (points.length > 2 && each.when - points[0][0] > SECONDS) points.shift();
        history.set(each.name, points);
      }
    }
    by("connection").hidden = true;
    document.body.dataset.updates = Number(document.body.dataset.updates || 0) + 1;
    update();
  });
  source.onerror = () => {
    by("connection").hidden = false;
    put(by("connection"), "The inspector does not answer; start it again: extmem view");
  };
}

// -- keys ------------------------------------------------------------------------------------------------

by("filter").addEventListener("input", () => { page = 0; showLists(); });
by("earlier").addEventListener("click", () => { page -= 1; showLists(); });
by("later").addEventListener("click", () => { page += 1; showLists(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === by("filter");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    by("filter").focus();
  } else if (event.key === "Escape" && typing) {
    by("filter").value = "";
    page = 0;
    showLists();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const buttons = [...document.querySelectorAll(".rows button")];
    const at = buttons.indexOf(document.activeElement);
    if (at < 0 && !typing) return;
    const next = buttons[at + (event.key === "ArrowDown" ? 1 : -1)];
    event.preventDefault();
    if (next) { next.focus(); next.click(); }
  }
});

const start = /^#(stream|object)=(.+)$/.exec(location.hash);
if (start) select(start[1], start[1] === "object" ? Number(start[2]) : decodeURIComponent(start[2]), true);
listen();
samples.run();
