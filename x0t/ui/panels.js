// Everything beside the map: one function per panel, each given data and names, each writing text and never markup.

import { duration } from "./topology.js";

const byId = (id) => document.getElementById(id);

function element(name, { text, ...properties } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(made.dataset, value);
    else if (value !== undefined) made[key] = value;
  }
  made.append(...children);
  return made;
}

const byName = (name) => (one, two) => name(one).localeCompare(name(two), undefined, { numeric: true });
const lastPart = (spiffeId) => spiffeId?.split("/").pop();
const share = (permille) => `${(permille / 10).toFixed(permille % 10 ? 1 : 0)} %`;
const mood = { up: "good", self: "good", valid: "good", suspect: "warn", renewing: "warn", degraded: "warn", down: "bad", unreachable: "bad", critical: "bad", expired: "bad" };

export function showStatus(status, note) {
  byId("node-hint").textContent = note;
  const facts = status
    ? [
        ["name", status.name],
        ["identity", status.spiffe_id, "mono"],
        ["overlay address", status.overlay_address, "mono"],
        ["links up", String(status.links_up)],
        ["reachable", `${status.reachable} nodes`],
        ["identity is", `${status.svid_state}${status.is_authority ? ", issues identities" : ""}`],
        ["up for", duration(status.uptime_ms * 1000)],
      ]
    : [["state", "does not answer"]];
  byId("status").replaceChildren(...facts.flatMap(([term, text, className]) => [element("dt", { text: term }), element("dd", { text, className })]));
}

function rows(target, columns, items, emptyText) {
  const none = element("tr", {}, element("td", { text: emptyText, className: "empty", colSpan: columns }));
  byId(target).replaceChildren(...(items.length ? items : [none]));
}

export function showPeers(peers) {
  rows("peers", 4, [...peers].sort(byName((peer) => lastPart(peer.spiffe_id))).map((peer) => element("tr", {},
    element("td", { text: lastPart(peer.spiffe_id), title: `${peer.spiffe_id} at ${peer.address}` }),
    element("td", {}, element("span", { className: "state", text: peer.state, data: { state: mood[peer.state] ?? "" } })),
    element("td", { className: "num", text: duration(peer.rtt_us) }),
    element("td", { className: "num", text: share(peer.loss_permille) }),
  )), "no peers");
}

export function showRoutes(routes, name) {
  const destination = (route) => lastPart(route.spiffe_id) ?? name(route.node_id);
  rows("routes", 3, [...routes].sort(byName(destination)).map((route) => {
    const usable = route.successors.filter((successor) => successor.usable);
    return element("tr", {},
      element("td", { text: destination(route), title: route.overlay_address }),
      element("td", { text: usable.length ? usable.map((successor) => name(successor.via)).join(", ") : "unreachable", className: usable.length ? "" : "empty" }),
      element("td", { className: "num", text: usable.length ? duration(usable[0].metric_us) : "–" }));
  }), "no routes");
}

const faultMood = { active: "bad", restored: "warn", healed: "good", failed: "bad" };
const ms = (value) => (value === null || value === undefined ? "…" : `${value < 100 ? value.toFixed(1) : Math.round(value)} ms`);

export function showFaults(faults) {
  byId("faults").hidden = false;
  rows("fault-rows", 6, [...faults].reverse().map((fault) => {
    const path = element("td", { className: "path wide" }, element("span", { className: "was", text: fault.old_path.join("·") }));
    if (fault.new_path.length) path.append(" → ", element("span", { text: fault.new_path.join("·") }));
    return element("tr", {},
      element("td", { text: `${fault.number}. ${fault.text}`, className: "wide" }),
      element("td", { className: "num", text: ms(fault.detected_ms), data: { label: "Detected" } }),
      element("td", { className: "num", text: ms(fault.restored_ms), data: { label: "Restored" } }),
      element("td", { className: "num", text: String(fault.lost), data: { label: "Packets lost" } }),
      path,
      element("td", {}, element("span", { className: "state", text: fault.state, data: { state: faultMood[fault.state] ?? "" } })));
  }), "none so far");
}

export function showStream(stream, name, faults) {
  byId("stream").hidden = false;
  byId("stream-note").textContent = `${name(stream.from)} → ${name(stream.to)}, one packet every ${stream.interval_ms} ms, sealed end to end`;
  const numbers = [
    ["sent", String(stream.sent)],
    ["lost", String(stream.lost), stream.sent ? `${((100 * stream.lost) / stream.sent).toFixed(2)} %` : "", stream.lost ? "bad" : ""],
    ["RTT median", ...duration(stream.rtt_p50_us).split(" ")],
    ["RTT 99 %", ...duration(stream.rtt_p99_us).split(" ")],
  ];
  byId("stream-numbers").replaceChildren(...numbers.map(([term, value, unit, state]) =>
    element("div", {}, element("dt", { text: term }), element("dd", { text: value, data: { state: state ?? "" } }, element("small", { text: unit ?? "" })))));
  drawSpark(byId("spark"), stream, faults);
}

// Round-trip time as an area, lost packets as bars from the floor, faults as marks.
function drawSpark(svg, { buckets, bucket_ms: step, now_ms: now, window_ms: span }, faults) {
  const [width, height, floor] = [svg.clientWidth, svg.clientHeight, svg.clientHeight - 16];
  if (!width) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const make = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const x = (at) => width * (1 - (now - at) / span);
  const most = Math.max(1000, ...buckets.map((bucket) => bucket.rtt_us ?? 0)) * 1.15;
  const y = (us) => floor - (us / most) * (floor - 14);
  const parts = [make("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor })];
  let run = [];
  const close = () => {
    if (run.length > 1) {
      const line = run.map(([px, py], index) => `${index ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      parts.push(make("path", { class: "area", d: `${line}L${run.at(-1)[0].toFixed(1)} ${floor}L${run[0][0].toFixed(1)} ${floor}Z` }), make("path", { class: "line", d: line }));
    }
    run = [];
  };
  for (const bucket of buckets) {
    if (bucket.rtt_us === null) close();
    else run.push([x(bucket.at_ms), y(bucket.rtt_us)]);
    if (bucket.lost) {
      const tall = Math.max(3, (floor - 14) * Math.min(1, bucket.lost / (bucket.lost + bucket.answered)));
      parts.push(make("rect", { class: "loss", x: x(bucket.at_ms), y: floor - tall, width: Math.max(2, (width * step) / span - 0.5), height: tall }));
    }
  }
  close();
  // A name where there is room for one beside the scale and the name before it.
  let taken = 70;
  for (const fault of faults) {
    const at = x(fault.at_ms);
    if (at < 0) continue;
    parts.push(make("line", { class: "mark", x1: at, x2: at, y1: 12, y2: floor }));
    const place = Math.min(at, width - 22);
    if (place - 22 < taken) continue;
    taken = place + 26;
    parts.push(make("text", { class: "mark-name", x: place, y: 9, "text-anchor": "middle" }, fault.kind));
  }
  parts.push(make("text", { x: 0, y: height - 2 }, `−${Math.round(span / 1000)} s`), make("text", { x: width, y: height - 2, "text-anchor": "end" }, "now"),
    make("text", { x: 0, y: 9 }, duration(most)));
  svg.replaceChildren(...parts);
}

const EVENTS_MAX = 400;

// What an event says to a person: [mood, text, group].
export function describe(event, name) {
  const who = (id) => name(id);
  switch (event.event) {
    case "link_up": return ["good", `link to ${who(event.peer)} is up`, "links"];
    case "link_suspect": return ["warn", `${who(event.peer)} is silent for ${duration(event.silent_us)}: traffic moved`, "links"];
    case "link_recovered": return ["good", `${who(event.peer)} is heard again`, "links"];
    case "link_down": return ["bad", `link to ${who(event.peer)} is down: ${event.reason}`, "links"];
    case "route_changed": return ["", event.via ? `to ${who(event.destination)} through ${who(event.via)}${event.metric ? `, ${duration(event.metric)}` : ""}` : `no way to ${who(event.destination)}`, "routes"];
    case "session_up": return ["good", `end-to-end session with ${lastPart(event.peer)}`, "identity"];
    case "svid_rotated": return ["good", "identity renewed, nothing dropped", "identity"];
    case "svid_expiring": return ["bad", event.left_s ? `identity ends in ${event.left_s} s` : "identity has expired", "identity"];
    case "svid_distrusted": return ["warn", `identity replaced before its time: ${event.reason.replaceAll("_", " ")}`, "identity"];
    case "clock_jumped": return ["warn", `clock jumped ${event.forward ? "forward" : "back"} by ${event.by_s} s`, "identity"];
    case "svid_renewal_failed": return ["warn", `identity not renewed: ${event.reason}`, "identity"];
    case "node_joined": return ["good", `${lastPart(event.spiffe_id)} joined`, "identity"];
    case "refused": return ["bad", `refused: ${event.reason}`, "identity"];
    case "fault": return [event.mood ?? "bad", event.text, "links"];
    default: return ["", event.event ?? "event", "other"];
  }
}

export class EventLog {
  constructor(list, filter) {
    this.list = list;
    this.filter = filter;
    filter.addEventListener("change", () => this.sieve());
    list.replaceChildren(element("li", { className: "empty", text: "nothing yet" }));
  }

  add(event, time, where, name) {
    this.list.querySelector("li.empty")?.remove();
    const [state, text, group] = describe(event, name);
    const line = element("li", { data: { state, group, kind: event.event === "fault" ? "fault" : "" } },
      element("time", { text: time }), element("span", { className: "where", text: where, title: where }), element("span", { className: "what", text }));
    line.hidden = !this.wants(line);
    const follow = this.list.scrollTop < 8;
    this.list.prepend(line);
    if (follow) this.list.scrollTop = 0;
    while (this.list.children.length > EVENTS_MAX) this.list.lastChild.remove();
  }

  wants(line) {
    return this.filter.value === "all" || line.dataset.group === this.filter.value;
  }

  sieve() {
    for (const line of this.list.children) line.hidden = !this.wants(line);
  }
}
