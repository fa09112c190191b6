"""py-spiffe (PyPI `spiffe`) as a workload."""

import threading

from spiffe import JwtSource, SpiffeId, TrustDomain, WorkloadApiClient, X509Source

OWN, OTHER = TrustDomain("mesh.test"), TrustDomain("other.test")


def tell(word):
    print(word, flush=True)


client = WorkloadApiClient()

svids = client.fetch_x509_svids(timeout=20)
assert [str(svid.spiffe_id) for svid in svids] == ["spiffe://mesh.test/web", "spiffe://mesh.test/api"]
assert str(client.fetch_x509_svid(timeout=20).spiffe_id) == "spiffe://mesh.test/web"
bundles = client.fetch_x509_bundles(timeout=20)
assert bundles.get_bundle_for_trust_domain(OWN) is not None

# A source keeps itself up to date.
source = X509Source(client)
changed = threading.Event()
source.subscribe_for_updates(changed.set)


def until(condition, what):
    for _ in range(200):
        if condition():
            return
        changed.wait(0.1)
        changed.clear()
    raise AssertionError(f"never {what}")


before = source.get_x509_context().default_svid.leaf.serial_number
tell("rotate")
until(lambda: source.get_x509_context().default_svid.leaf.serial_number != before, "rotated")
assert source.get_bundle_for_trust_domain(OTHER) is None
tell("federate")
until(lambda: source.get_bundle_for_trust_domain(OTHER) is not None, "federated")
tell("defederate")
until(lambda: source.get_bundle_for_trust_domain(OTHER) is None, "unfederated")

# JWT-SVIDs: fetched, validated by the endpoint, and by the library with the keys of the endpoint.
token = client.fetch_jwt_svid({"db", "cache"}, timeout=20)
assert str(token.spiffe_id) == "spiffe://mesh.test/web"
api = client.fetch_jwt_svid({"db"}, subject=SpiffeId("spiffe://mesh.test/api"), timeout=20)
assert str(api.spiffe_id) == "spiffe://mesh.test/api"
assert len(client.fetch_jwt_svids({"db"}, timeout=20)) == 2
assert str(client.validate_jwt_svid(token.token, "cache", timeout=20).spiffe_id) == "spiffe://mesh.test/web"
try:
    client.validate_jwt_svid(token.token, "elsewhere", timeout=20)
    raise SystemExit("a token for another audience was found valid")
except Exception as refused:
    assert "InvalidArgument" in repr(refused) or "INVALID_ARGUMENT" in repr(refused) or "valid" in str(refused).lower()
jwt_source = JwtSource(client)
assert jwt_source.get_bundle_for_trust_domain(OWN) is not None
jwt_source.close()
source.close()
client.close()
tell("passed")
