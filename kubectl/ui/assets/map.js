import { h, svg } from "./dom.js";

// Sizes, in pixels.
const box = { width: 196, head: 50, gap: 20 };
const chip = { height: 22, gap: 4, most: 8 };
const router = { width: 170, height: 46 };
const left = 22; // of the trunks that join the rows of a segment
const busGap = 24;

const move = (g, x, y) => { g.style.transform = `translate(${x}px, ${y}px)`; };
const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const label = (g, name, text) => {
  const node = g.querySelector(name);
  if (node.textContent !== text) node.textContent = text;
};

// Layer keeps elements by key: what moves is the same element before and after.
class Layer {
  constructor(parent, name) {
    this.group = parent.appendChild(svg("g", { class: name }));
    this.elements = new Map();
  }

  show(items, keyOf, create, update) {
    const seen = new Set();
    for (const item of items) {
      const key = keyOf(item);
      seen.add(key);
      let element = this.elements.get(key);
      const fresh = !element;
      if (fresh) {
        element = create(item);
        this.elements.set(key, element);
        this.group.append(element);
      }
      update(element, item, fresh);
    }
    for (const [key, element] of this.elements) {
      if (seen.has(key)) continue;
      this.elements.delete(key);
      element.remove();
    }
  }
}

let layers;
function layersIn(parent) {
  if (layers) return layers;
  const root = parent.appendChild(svg("svg", { role: "group", "aria-label": "Routers, nodes, segments, and addresses at their owners" }));
  layers = { root };
  for (const name of ["lines", "sessions", "routers", "nodes", "chips"]) layers[name] = new Layer(root, name);
  layers.empty = parent.appendChild(h("p", { class: "muted" }, "No node is known."));
  return layers;
}

// segmentsOf returns the names of segments, each the first subnet of an interface, in order.
function segmentsOf(frame) {
  const names = new Set((frame.owners ?? []).map((o) => o.segment));
  for (const node of frame.nodes ?? []) for (const s of node.segments ?? []) names.add(s.subnets?.[0] ?? s.interface);
  return [...names].sort();
}

export function drawMap(parent, frame) {
  const { root, empty, ...layer } = layersIn(parent);
  const nodes = frame.nodes ?? [];
  empty.hidden = nodes.length > 0;
  const width = parent.clientWidth;
  const segments = segmentsOf(frame);
  const owned = Map.groupBy(frame.owners ?? [], (o) => o.node);

  const margin = left + segments.length * 8;
  const columns = Math.max(1, Math.min(nodes.length, Math.floor((width - margin) / (box.width + box.gap))));
  const step = Math.min((width - margin) / columns, box.width * 1.6);
  const indent = margin + (width - margin - step * columns) / 2 + (step - box.width) / 2;
  const mostChips = Math.max(2, ...nodes.map((n) => Math.min(chip.most + 1, owned.get(n.name)?.length ?? 0)));
  const boxHeight = box.head + mostChips * (chip.height + chip.gap) + 8;
  const top = frame.routers?.length ? router.height + 84 : 8;
  const rowHeight = boxHeight + 26 + segments.length * busGap + 16;
  const rowCount = Math.ceil(nodes.length / columns);

  const place = new Map(nodes.map((n, i) => [n.name, {
    x: indent + (i % columns) * step, y: top + Math.floor(i / columns) * rowHeight,
  }]));
  root.setAttribute("width", width);
  root.setAttribute("height", top + rowCount * rowHeight);
  const bus = (row, i) => top + row * rowHeight + boxHeight + 26 + i * busGap;

  drawSegments(layer.lines, { nodes, segments, place, columns, rowCount, bus, boxHeight, width });
  drawRouters(layer, frame, place, width);
  drawNodes(layer.nodes, nodes, place, boxHeight, owned);
  drawChips(layer.chips, nodes, owned, place);
}

function drawSegments(layer, { nodes, segments, place, columns, rowCount, bus, boxHeight, width }) {
  const lines = [];
  segments.forEach((name, i) => {
    const trunk = 10 + i * 8;
    const rowsWithIt = [];
    for (let row = 0; row < rowCount; row++) {
      const on = nodes.slice(row * columns, (row + 1) * columns)
        .map((n) => ({ n, s: n.segments?.find((s) => (s.subnets?.[0] ?? s.interface) === name) })).filter((x) => x.s);
      if (!on.length) continue;
      rowsWithIt.push(row);
      const y = bus(row, i);
      lines.push({ key: `${name} bus ${row}`, d: `M${trunk} ${y}H${width - 8}`, kind: "bus", text: name, x: trunk + 6, y: y + 14 });
      for (const { n, s } of on) {
        const x = place.get(n.name).x + box.width / 2 + (i - (segments.length - 1) / 2) * 18;
        const kind = s.problem || n.state === "NotReady" ? "drop down" : "drop";
        lines.push({ key: `${name} ${n.name}`, d: `M${x} ${place.get(n.name).y + boxHeight}V${y}`, kind, title: s.problem });
      }
    }
    if (rowsWithIt.length > 1) {
      lines.push({ key: `${name} trunk`, d: `M${trunk} ${bus(rowsWithIt[0], i)}V${bus(rowsWithIt.at(-1), i)}`, kind: "bus" });
    }
  });
  layer.show(lines, (l) => l.key,
    (l) => svg("g", {}, svg("path"), svg("text", { class: "segment-name" }), svg("title")),
    (g, l) => {
      g.setAttribute("class", l.kind);
      g.querySelector("path").setAttribute("d", l.d);
      label(g, "title", l.title ?? "");
      if (!l.text) return;
      const text = g.querySelector("text");
      text.setAttribute("x", l.x);
      text.setAttribute("y", l.y);
      label(g, "text", `segment ${l.text}`);
    });
}

function drawRouters(layer, frame, place, width) {
  const routers = frame.routers ?? [];
  const step = Math.min(width / Math.max(1, routers.length), router.width * 1.5);
  const start = (width - step * routers.length) / 2 + (step - router.width) / 2;
  const at = new Map(routers.map((r, i) => [r.name, { x: start + i * step, y: 6 }]));
  layer.routers.show(routers, (r) => r.name,
    () => svg("g", { tabindex: 0, role: "img", class: "router" },
      svg("rect", { width: router.width, height: router.height, rx: 23 }),
      svg("text", { class: "name", x: router.width / 2, y: 20 }),
      svg("text", { class: "detail", x: router.width / 2, y: 36 })),
    (g, r) => {
      move(g, at.get(r.name).x, at.get(r.name).y);
      g.classList.toggle("down", r.sessions.are < r.sessions.of);
      label(g, ".name", cut(r.name, 22));
      label(g, ".detail", cut(`${r.address ?? ""}${r.asn ? ` AS ${r.asn}` : ""}`, 27));
      g.setAttribute("aria-label", `router ${r.name} ${r.address ?? ""}: ${r.sessions.are} of ${r.sessions.of} sessions established`);
    });

  const states = new Map((frame.nodes ?? []).map((n) => [n.name, n.state]));
  const sessions = (frame.sessions ?? []).filter((s) => at.has(s.neighbor) && place.has(s.node));
  const index = new Map();
  layer.sessions.show(sessions, (s) => `${s.node} ${s.neighbor} ${s.address}`,
    () => svg("path", {}, svg("title")),
    (path, s) => {
      const from = at.get(s.neighbor), to = place.get(s.node);
      const nth = index.get(s.node) ?? 0; // sessions of one node end beside each other
      index.set(s.node, nth + 1);
      const x1 = from.x + router.width / 2, y1 = from.y + router.height;
      const x2 = to.x + box.width / 2 + nth * 10, y2 = to.y;
      const bend = Math.min(56, (y2 - y1) / 2);
      path.setAttribute("d", `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`);
      const up = s.state === "Established";
      path.setAttribute("class", states.get(s.node) === "NotReady" ? "unknown" : up ? "up" : "down");
      label(path, "title", `${s.node} with ${s.neighbor}: ${s.state}${!up && s.lastError ? `, ${s.lastError}` : ""}`);
    });
}

function drawNodes(layer, nodes, place, boxHeight, owned) {
  layer.show(nodes, (n) => n.name,
    () => svg("g", { tabindex: 0, role: "img" },
      svg("rect", { width: box.width, rx: 10 }), svg("circle", { cx: 18, cy: 21, r: 5 }),
      svg("text", { class: "name", x: 31, y: 25 }), svg("text", { class: "detail", x: 14, y: 42 }),
      svg("text", { class: "more", x: 14 }), svg("title")),
    (g, n) => {
      move(g, place.get(n.name).x, place.get(n.name).y);
      g.setAttribute("class", `node ${n.healthy ? (n.state === "Excluded" ? "excluded" : "healthy") : "troubled"}`);
      g.querySelector("rect").setAttribute("height", boxHeight);
      label(g, ".name", cut(n.name, 22));
      const sessions = n.sessions.of && n.state !== "NotReady" ? `, ${n.sessions.are}/${n.sessions.of} sessions` : "";
      const addresses = `${n.owned} ${n.owned === 1 ? "address" : "addresses"}`;
      label(g, ".detail", `${n.state === "Announcing" ? "" : `${n.state}, `}${addresses}${sessions}`);
      const hidden = (owned.get(n.name)?.length ?? 0) - chip.most;
      g.querySelector(".more").setAttribute("y", box.head + chip.most * (chip.height + chip.gap) + 15);
      label(g, ".more", hidden > 0 ? `and ${hidden} more` : "");
      label(g, "title", n.problem ?? "");
      g.setAttribute("aria-label", `node ${n.name}: ${n.state}, ${addresses}${sessions}${n.problem ? `; ${n.problem}` : ""}`);
    });
}

// room is how many letters of a Service's name fit beside an address.
const room = (o) => 22 - o.address.length;

function drawChips(layer, nodes, owned, place) {
  const shown = nodes.flatMap((n) => (owned.get(n.name) ?? []).slice(0, chip.most).map((o, i) => ({ ...o, i })));
  layer.show(shown, (o) => `${o.address} ${o.segment}`,
    (o) => svg("g", { class: "chip", "data-address": o.address },
      svg("rect", { width: box.width - 20, height: chip.height, rx: 5 }),
      svg("text", { class: "code", x: 8, y: 15 }, cut(o.address, 23)),
      svg("text", { class: "service", x: box.width - 28, y: 15 }), svg("title")),
    (g, o, fresh) => {
      const at = place.get(o.node);
      if (!fresh && g.dataset.node !== o.node) {
        g.classList.add("moving");
        g.parentNode.append(g); // above the others
        setTimeout(() => g.classList.remove("moving"), 2500);
      }
      g.dataset.node = o.node;
      move(g, at.x + 10, at.y + box.head + o.i * (chip.height + chip.gap));
      label(g, ".service", room(o) > 3 ? cut((o.services?.[0] ?? "").split("/").at(-1), room(o)) : "");
      label(g, "title", `${o.address} on ${o.segment}: ${(o.services ?? []).join(", ")}`);
    });
}
