// gRPC for JavaScript (npm `@grpc/grpc-js`), with nothing but the interface file.
"use strict";

const assert = require("node:assert");
const { X509Certificate, createPrivateKey } = require("node:crypto");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [, , target, proto] = process.argv;
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true, defaults: true }));
const client = new SpiffeWorkloadAPI(target, grpc.credentials.createInsecure());
const header = new grpc.Metadata();
header.set("workload.spiffe.io", "true");
const tell = (word) => process.stdout.write(word + "\n");

setTimeout(() => { throw new Error("too slow"); }, 60_000).unref();

function call(method, request, metadata = header) {
  return new Promise((resolve, reject) =>
    client[method](request, metadata, (error, answer) => (error ? reject(error) : resolve(answer))));
}

/** Messages of a stream, one after the other; `null` stands for its end. */
function open(method, metadata = header) {
  const stream = client[method]({}, metadata);
  const messages = [], waiting = [];
  const put = (message) => (waiting.length ? waiting.shift()(message) : messages.push(message));
  stream.on("data", put);
  stream.on("error", (error) => put(error));
  return {
    next: () => new Promise((resolve) => (messages.length ? resolve(messages.shift()) : waiting.push(resolve))),
    cancel: () => stream.cancel(),
  };
}

async function main() {
  const svids = open("FetchX509SVID");
  const first = await svids.next();
  assert.deepStrictEqual(first.svids.map((svid) => svid.spiffe_id), ["spiffe://mesh.test/web", "spiffe://mesh.test/api"]);
  assert.deepStrictEqual(first.svids.map((svid) => svid.hint), ["internal", ""]);
  for (const svid of first.svids) {
    const leaf = new X509Certificate(svid.x509_svid);
    assert.strictEqual(leaf.subjectAltName, `URI:${svid.spiffe_id}`);
    assert(leaf.checkPrivateKey(createPrivateKey({ key: svid.x509_svid_key, format: "der", type: "pkcs8" })));
    assert(leaf.verify(new X509Certificate(svid.bundle).publicKey));
  }
  tell("rotate");
  const second = await svids.next();
  assert.notDeepStrictEqual(second.svids[0].x509_svid, first.svids[0].x509_svid);
  tell("federate");
  assert.deepStrictEqual(Object.keys((await svids.next()).federated_bundles), ["spiffe://other.test"]);
  const bundles = open("FetchX509Bundles");
  assert.deepStrictEqual(Object.keys((await bundles.next()).bundles).sort(), ["spiffe://mesh.test", "spiffe://other.test"]);
  tell("defederate");
  assert.deepStrictEqual(Object.keys((await bundles.next()).bundles), ["spiffe://mesh.test"]);

  const { svids: tokens } = await call("FetchJWTSVID", { audience: ["db"], spiffe_id: "spiffe://mesh.test/api" });
  const validated = await call("ValidateJWTSVID", { audience: "db", svid: tokens[0].svid });
  assert.strictEqual(validated.spiffe_id, "spiffe://mesh.test/api");
  const keys = open("FetchJWTBundles");
  assert(JSON.parse((await keys.next()).bundles["spiffe://mesh.test"]).keys.every((key) => key.kid));

  const bare = await open("FetchX509SVID", new grpc.Metadata()).next();
  assert.strictEqual(bare.code, grpc.status.INVALID_ARGUMENT);
  const wit = await open("FetchWITSVID").next();
  assert.strictEqual(wit.code, grpc.status.UNIMPLEMENTED);
  const stranger = await call("FetchJWTSVID", { audience: ["db"], spiffe_id: "spiffe://mesh.test/other" }).catch((error) => error);
  assert.strictEqual(stranger.code, grpc.status.PERMISSION_DENIED);
  for (const stream of [svids, bundles, keys]) stream.cancel();
  client.close();
  tell("passed");
}

main().catch((error) => { console.error(error); process.exit(1); });
