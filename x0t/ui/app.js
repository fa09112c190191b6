// The live page: asks what the mesh looks like, listens to what happens, and hands both to the map and the panels.

import { TopologyMap } from "./topology.js";
import { EventLog, showFaults, showPeers, showRoutes, showStatus, showStream } from "./panels.js";

const POLL_MS = 500;
const byId = (id) => document.getElementById(id);

let topology = { self: "", nodes: [], links: [], routes: [], flows: [] };
let selected = null;
let clockOffsetMs = Infinity;

const name = (id) => topology.nodes.find((node) => node.id === id)?.name ?? String(id).slice(0, 8);
const map = new TopologyMap(byId("map"), (id) => { selected = id; map.draw(topology, subject()); pollNode(); });
const log = new EventLog(byId("events"), byId("event-filter"));
// In the demo any node can be looked into; a single node knows only itself.
const subject = () => (topology.demo && selected) || topology.self;

async function ask(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(3000) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

function health() {
  const down = topology.nodes.filter((node) => ["down", "unreachable"].includes(node.state)).length;
  const suspect = topology.links.filter((link) => link.state === "suspect").length;
  const cut = topology.links.filter((link) => link.state === "down").length;
  if (down) return ["bad", `${down} of ${topology.nodes.length} nodes away`];
  if (suspect + cut) return ["warn", `${suspect + cut} of ${topology.links.length} links away`];
  return topology.nodes.length > 1 ? ["good", `${topology.nodes.length} nodes, all well`] : ["warn", "alone"];
}

function showHealth([state, text]) {
  const pill = byId("health");
  pill.dataset.state = state;
  if (pill.textContent !== text) pill.textContent = text;
}

function showDemo(demo) {
  const story = byId("story");
  story.hidden = !demo.text;
  story.dataset.state = demo.phase;
  if (story.textContent !== demo.text) story.textContent = demo.text;
  if (demo.stream) showStream(demo.stream, name, demo.faults);
  showFaults(demo.faults);
}

async function pollTopology() {
  try {
    topology = await ask("api/v1/topology");
    map.draw(topology, subject());
    showHealth(health());
    byId("mesh-name").textContent = topology.nodes[0]?.spiffe_id?.split("/")[2] ?? "";
    document.querySelector(".legend-flow").hidden = !topology.flows?.length;
    document.querySelector("main").dataset.single = !topology.demo;
    if (topology.demo) showDemo(topology.demo);
  } catch {
    showHealth(["bad", "no answer"]);
  }
  setTimeout(pollTopology, POLL_MS);
}

let nodePoll = 0;
async function pollNode() {
  clearTimeout(nodePoll);
  const id = subject();
  if (id) {
    const query = topology.demo ? `?node=${encodeURIComponent(id)}` : "";
    const [status, peers, routes] = (await Promise.allSettled(["status", "peers", "routes"].map((part) => ask(`api/v1/${part}${query}`)))).map((part) => part.value);
    // Another node may have been chosen while this one answered.
    if (id === subject()) {
      showStatus(status, topology.demo ? "choose a node on the map" : "");
      showPeers(peers ?? []);
      showRoutes(routes ?? [], name);
    }
  }
  nodePoll = setTimeout(pollNode, id ? 1000 : 100);
}

// A node tells nanoseconds of its own clock. In the demo they count from its start; alone, the least delayed event so far
// says how far that clock is from the wall's.
function timeOf(event) {
  const ms = event.at / 1e6;
  if (topology.demo) return `${((ms - topology.demo.started_ms) / 1000).toFixed(3)} s`;
  clockOffsetMs = Math.min(clockOffsetMs, Date.now() - ms);
  return new Date(ms + clockOffsetMs).toISOString().slice(11, 23);
}

function listen() {
  const source = new EventSource("api/v1/events");
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    log.add(event, timeOf(event), event.node ? name(event.node) : "", name);
  };
}

byId("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});

await pollTopology();
pollNode();
listen();
