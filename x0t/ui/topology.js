// Draws the mesh. Positions follow from the graph alone, so two viewers of one mesh see one picture.

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 23;
const PACKETS = 4;
const CROSSING_MS = 1600;

function make(parent, name, attributes = {}, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export function duration(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${Math.round(us)} µs`;
  const ms = us / 1000;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

// Hops from `start` to everybody, over every link whatever its state: a link that comes and goes moves no node.
function depths(start, nodes, links) {
  const near = new Map(nodes.map((node) => [node.id, []]));
  for (const { a, b } of links) {
    near.get(a)?.push(b);
    near.get(b)?.push(a);
  }
  const depth = new Map([[start, 0]]);
  for (const id of depth.keys()) {
    for (const next of near.get(id) ?? []) if (!depth.has(next)) depth.set(next, depth.get(id) + 1);
  }
  return depth;
}

// A flow goes from one side to the other with the relays in columns between; without a flow the own node is in the middle.
function layout(nodes, links, flow, me, width, height) {
  const sorted = [...nodes].sort((x, y) => x.name.localeCompare(y.name) || x.id.localeCompare(y.id));
  const upright = width < height;
  const [along, across] = upright ? [height, width] : [width, height];
  // A caption hangs below its node.
  const lift = 8;
  const at = new Map();
  if (flow) {
    const depth = depths(flow.from, sorted, links);
    const last = Math.max(1, ...depth.values(), depth.get(flow.to) ?? 1);
    const stretch = upright ? 0.76 : 0.84;
    const columns = new Map();
    for (const { id } of sorted) {
      const column = id === flow.to ? last : Math.min(depth.get(id) ?? last, last);
      columns.set(column, [...(columns.get(column) ?? []), id]);
    }
    for (const [column, ids] of columns) {
      ids.forEach((id, row) => at.set(id, { u: (column / last - 0.5) * stretch * along, v: ids.length > 1 ? (row / (ids.length - 1) - 0.5) * 0.62 * across : 0 }));
    }
    for (const id of [flow.from, flow.to]) if (at.has(id)) at.get(id).v = 0;
    if (at.has(flow.to)) at.get(flow.to).u = (stretch / 2) * along;
  } else {
    const others = sorted.filter((node) => node.id !== me);
    others.forEach(({ id }, index) => {
      const angle = (2 * Math.PI * index) / others.length - Math.PI / 2;
      at.set(id, { u: Math.cos(angle) * along * 0.36, v: Math.sin(angle) * across * 0.36 });
    });
    if (nodes.some((node) => node.id === me)) at.set(me, { u: 0, v: 0 });
    relax(at, links, along, across);
  }
  const position = new Map();
  for (const [id, { u, v }] of at) position.set(id, upright ? { x: width / 2 + v, y: height / 2 + u - lift } : { x: width / 2 + u, y: height / 2 + v - lift });
  return position;
}

// Fruchterman and Reingold's springs, from a fixed start and for a fixed number of steps, then fitted into the space.
function relax(at, links, along, across) {
  const ids = [...at.keys()];
  const ideal = 0.75 * Math.sqrt((along * across) / Math.max(1, ids.length));
  for (let step = 0; step < 240; step++) {
    const push = new Map(ids.map((id) => [id, { u: 0, v: 0 }]));
    const act = (one, two, force) => {
      const [p, q] = [at.get(one), at.get(two)];
      const [du, dv] = [p.u - q.u, p.v - q.v];
      const distance = Math.max(1, Math.hypot(du, dv));
      const share = force(distance) / distance;
      push.get(one).u += du * share; push.get(one).v += dv * share;
      push.get(two).u -= du * share; push.get(two).v -= dv * share;
    };
    ids.forEach((one, index) => ids.slice(index + 1).forEach((two) => act(one, two, (distance) => (ideal * ideal) / distance)));
    for (const { a, b } of links) if (at.has(a) && at.has(b)) act(a, b, (distance) => -(distance * distance) / ideal);
    const heat = 0.06 * along * (1 - step / 240);
    for (const id of ids) {
      const { u, v } = push.get(id);
      const size = Math.max(1, Math.hypot(u, v));
      at.get(id).u += (u / size) * Math.min(size, heat);
      at.get(id).v += (v / size) * Math.min(size, heat);
    }
  }
  fit(at, "u", along, 0.8);
  fit(at, "v", across, 0.66);
}

function fit(at, axis, space, part) {
  const values = [...at.values()].map((place) => place[axis]);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const scale = Math.min(3, (space * part) / Math.max(1, most - least));
  for (const place of at.values()) place[axis] = (place[axis] - (least + most) / 2) * scale;
}

export class TopologyMap {
  constructor(svg, onSelect) {
    this.svg = svg;
    this.onSelect = onSelect;
    this.layers = Object.fromEntries(["links", "flows", "labels", "packets", "nodes"].map((name) => [name, make(svg, "g")]));
    this.shape = "";
    this.position = new Map();
    this.links = new Map();
    this.nodes = new Map();
    this.flows = [];
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.topology && this.draw(this.topology, this.selected)).observe(svg);
    requestAnimationFrame((now) => this.animate(now));
  }

  draw(topology, selected) {
    this.topology = topology;
    this.selected = selected;
    const { clientWidth: width, clientHeight: height } = this.svg;
    if (!width || !height) return;
    const flow = topology.flows?.[0];
    const shape = JSON.stringify([width, height, topology.nodes.map((node) => node.id), topology.links.map((link) => [link.a, link.b]), flow?.from, flow?.to]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.position = layout(topology.nodes, topology.links, flow, topology.self, width, height);
      for (const layer of Object.values(this.layers)) layer.replaceChildren();
      this.links.clear();
      this.nodes.clear();
      this.places = this.labelPlaces(topology.links);
    }
    topology.links.forEach((link) => this.drawLink(link));
    const ends = new Set((topology.flows ?? []).flatMap(({ from, to }) => [from, to]));
    topology.nodes.forEach((node) => this.drawNode(node, ends.has(node.id), node.id === selected));
    this.drawFlows(topology.flows ?? []);
  }

  // Beside the link, near its middle or further along where two links cross.
  labelPlaces(links) {
    const taken = [...this.position.values()].flatMap(({ x, y }) => [{ x, y }, { x, y: y + RADIUS + 15 }]);
    const places = new Map();
    for (const { a, b } of links) {
      const [p, q] = [this.position.get(a), this.position.get(b)];
      if (!p || !q) continue;
      const length = Math.max(1, Math.hypot(q.x - p.x, q.y - p.y));
      // Upwards of the line; further out where the line is steep, for a label is wider than high.
      const up = q.x < p.x ? -1 : 1;
      const reach = 13 + (17 * Math.abs(q.y - p.y)) / length;
      const aside = { x: (up * reach * (q.y - p.y)) / length, y: (-up * reach * (q.x - p.x)) / length };
      const best = [0.5, 0.36, 0.64, 0.28, 0.72]
        .map((t) => ({ x: p.x + (q.x - p.x) * t + aside.x, y: p.y + (q.y - p.y) * t + aside.y }))
        .map((place, order) => ({ place, room: Math.min(70, ...taken.map((other) => Math.hypot(other.x - place.x, (other.y - place.y) * 1.6))) - order * 0.01 }))
        .reduce((one, two) => (two.room > one.room ? two : one)).place;
      taken.push(best);
      places.set(`${a} ${b}`, best);
    }
    return places;
  }

  drawLink(link) {
    const key = `${link.a} ${link.b}`;
    const [p, q] = [this.position.get(link.a), this.position.get(link.b)];
    if (!p || !q) return;
    if (!this.links.has(key)) {
      const line = make(this.layers.links, "line", { class: "link", x1: p.x, y1: p.y, x2: q.x, y2: q.y });
      const place = this.places.get(key);
      const label = make(this.layers.labels, "text", { class: "cost", x: place.x, y: place.y + 4 });
      this.links.set(key, { line, label, hint: make(line, "title") });
    }
    const { line, label, hint } = this.links.get(key);
    line.dataset.state = label.dataset.state = link.state;
    label.textContent = link.state === "up" ? duration(link.rtt_us) : link.state === "down" ? "✕ down" : "suspect";
    hint.textContent = `${this.name(link.a)} – ${this.name(link.b)}: ${link.state}, round trip ${duration(link.rtt_us)}, cost ${duration(link.cost_us)}`;
  }

  drawNode(node, isEnd, isSelected) {
    const place = this.position.get(node.id);
    if (!place) return;
    if (!this.nodes.has(node.id)) {
      const group = make(this.layers.nodes, "g", { class: "node", tabindex: 0, role: "button", transform: `translate(${place.x} ${place.y})` });
      const short = node.name.length <= 3;
      make(group, "circle", { class: "halo", r: RADIUS + 6 });
      make(group, "circle", { class: "body", r: RADIUS });
      make(group, "text", { class: "name" }, short ? node.name : node.name.slice(0, 2).toUpperCase());
      const caption = make(group, "text", { class: "caption", y: RADIUS + 19 });
      group.addEventListener("click", () => this.onSelect(node.id));
      group.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.onSelect(node.id); }
      });
      this.nodes.set(node.id, { group, caption, short });
    }
    const { group, caption, short } = this.nodes.get(node.id);
    const role = node.role ?? (node.state === "self" ? "this node" : "");
    const trouble = ["up", "self"].includes(node.state) ? role : node.note ?? node.state;
    caption.textContent = short ? trouble : [node.name, trouble && trouble !== role ? trouble : ""].filter(Boolean).join(" · ");
    group.dataset.state = node.state;
    group.dataset.end = isEnd;
    group.setAttribute("aria-pressed", isSelected);
    group.setAttribute("aria-label", `Node ${node.name}, ${node.note ?? node.state}`);
  }

  drawFlows(flows) {
    const drawn = flows.filter((flow) => flow.alive !== false && flow.path.length > 1 && flow.path.every((id) => this.position.has(id)));
    const same = JSON.stringify(drawn.map((flow) => flow.path)) === JSON.stringify(this.flows.map((flow) => flow.path)) && this.flows.every((flow) => flow.line.isConnected);
    if (same) return;
    this.layers.flows.replaceChildren();
    this.layers.packets.replaceChildren();
    this.flows = drawn.map(({ path }) => {
      const d = path.map((id, index) => `${index ? "L" : "M"}${this.position.get(id).x} ${this.position.get(id).y}`).join("");
      make(this.layers.flows, "path", { class: "flow-glow", d });
      const line = make(this.layers.flows, "path", { class: "flow", d });
      const packets = Array.from({ length: PACKETS }, () => make(this.layers.packets, "circle", { class: "packet", r: 4.5 }));
      return { path, line, length: line.getTotalLength(), packets };
    });
  }

  animate(now) {
    if (!this.calm.matches) {
      for (const { line, length, packets } of this.flows) {
        packets.forEach((packet, index) => {
          const { x, y } = line.getPointAtLength(((now / CROSSING_MS + index / PACKETS) % 1) * length);
          packet.setAttribute("cx", x);
          packet.setAttribute("cy", y);
        });
      }
    }
    requestAnimationFrame((next) => this.animate(next));
  }

  name(id) {
    return this.topology.nodes.find((node) => node.id === id)?.name ?? id.slice(0, 8);
  }
}
