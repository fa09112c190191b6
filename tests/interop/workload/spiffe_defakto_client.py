"""The SDK of Defakto (PyPI `spiffe-defakto`) as a workload."""

import asyncio

from spiffe_defakto import LocalWorkloadAPIClient, TrustDomain


def tell(word):
    print(word, flush=True)


async def within(awaitable):
    return await asyncio.wait_for(awaitable, 20)


async def main():
    own = TrustDomain("mesh.test")
    async with LocalWorkloadAPIClient() as client:
        svid = await within(client.x509.get_svid())
        assert str(svid.id if hasattr(svid, "id") else svid.spiffe_id) == "spiffe://mesh.test/web"
        assert await within(client.x509.get_bundle_for_trust_domain(own))
        contexts = client.watch_x509_context()
        first = await within(anext(contexts))
        tell("rotate")
        second = await within(anext(contexts))
        assert first.default_svid() != second.default_svid()
        tell("federate")
        third = await within(anext(contexts))
        assert len(third.bundles) == len(second.bundles) + 1
        tell("defederate")
        assert len((await within(anext(contexts))).bundles) == len(second.bundles)
        token = await within(client.jwt.fetch_svid(["db"]))
        assert "mesh.test/web" in repr(token) or str(getattr(token, "id", "")) == "spiffe://mesh.test/web"
        assert await within(client.jwt.get_bundle_for_trust_domain(own))
    tell("passed")


asyncio.run(main())
