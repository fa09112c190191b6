"""XS, XV, XF and the X.509 part of ID: what the client shows, and which peers it believes in either role."""

from authority import HOUR, LEAF, Authority
from cases import MUST, X509_CLIENT, X509_SERVER, case
from harness import DOMAIN, Finding

FEDERATED = "spiffe://fed.example.org"
ROLES = {
    "server": (X509_SERVER, lambda env, peer: env.accepts_client(peer)),
    "client": (X509_CLIENT, lambda env, peer: env.accepts_server(peer)),
}


def accepted(env, accepts, peer, what):
    if not accepts(env, peer):
        raise Finding(f"{what} is rejected: {env.errors()}")


def rejected(env, accepts, peer, what):
    accepted(env, accepts, env.authority.issue(f"{DOMAIN}/control"), "the control")
    if accepts(env, peer):
        raise Finding(f"{what} is accepted")


@case("XS-1", MUST, X509_SERVER)
def what_was_given_is_shown(env):
    svid = env.authority.issue(f"{DOMAIN}/xs-1")
    env.serve(svid)
    env.wait_for(svid)


@case("XS-2", MUST, X509_SERVER)
def the_whole_chain_is_shown(env):
    svid = env.authority.intermediate().issue(f"{DOMAIN}/xs-2")
    env.serve(svid)
    env.wait_for(svid)
    # The root alone is known here, so this ends well only if the intermediate was sent.
    env.greet(root=env.authority)


@case("XS-3", MUST, X509_SERVER)
def a_rotated_svid_is_shown(env):
    for number in range(2):
        svid = env.authority.issue(f"{DOMAIN}/xs-3-{number}")
        env.serve(svid)
        env.wait_for(svid)


@case("XS-4", MUST, X509_SERVER)
def every_authority_of_a_bundle_is_believed(env):
    second, (_, accepts) = Authority(DOMAIN), ROLES["server"]
    env.serve_and_wait(bundle=[env.authority.der, second.der])
    accepted(env, accepts, env.authority.issue(f"{DOMAIN}/first"), "a peer of the first authority")
    accepted(env, accepts, second.issue(f"{DOMAIN}/second"), "a peer of the second authority")


@case("XS-5", MUST, X509_SERVER)
def a_removed_authority_is_believed_no_more(env):
    second, (_, accepts) = Authority(DOMAIN), ROLES["server"]
    peer = second.issue(f"{DOMAIN}/second")
    env.serve_and_wait(bundle=[env.authority.der, second.der])
    accepted(env, accepts, peer, "a peer of the second authority")
    env.serve_and_wait(bundle=[env.authority.der])
    rejected(env, accepts, peer, "a peer of an authority that is gone")


def in_both_roles(name):
    """The same case, with the client as a TLS server and as a TLS client."""

    def register(run):
        for role, (feature, accepts) in ROLES.items():
            case(f"{name}/{role}", MUST, feature)(lambda env, accepts=accepts: run(env, accepts))
        return run

    return register


def peer_is(verdict, name, what, make):
    in_both_roles(name)(lambda env, accepts: verdict(env, accepts, make(env.authority, f"{DOMAIN}/{name.lower()}"), what))


def of_usage(*names):
    return lambda authority, id: authority.issue(id, usages=LEAF | set(names))


peer_is(accepted, "XV-1", "a valid peer", lambda authority, id: authority.issue(id))
peer_is(accepted, "XV-2", "a peer below an intermediate", lambda authority, id: authority.intermediate().issue(id))
peer_is(accepted, "XV-3", "a peer with a DNS name", lambda authority, id: authority.issue(id, dns=["xv-3.test.example.org"]))
peer_is(accepted, "XV-4", "a peer without a subject", lambda authority, id: authority.issue(id, subject=False))
peer_is(rejected, "XV-5", "a peer of an unknown authority", lambda authority, id: Authority(DOMAIN).issue(id))
peer_is(rejected, "XV-6", "an expired peer", lambda authority, id: authority.issue(id, starts=-2 * HOUR, lasts=HOUR))
peer_is(rejected, "XV-7", "a peer of the future", lambda authority, id: authority.issue(id, starts=HOUR, lasts=HOUR))
peer_is(rejected, "XV-8", "a peer that is a CA", lambda authority, id: authority.issue(id, ca=True))
peer_is(rejected, "XV-9", "a peer that may sign certificates", of_usage("key_cert_sign"))
peer_is(rejected, "XV-10", "a peer that may sign revocation lists", of_usage("crl_sign"))
peer_is(rejected, "XV-11", "a peer with two URI names", lambda authority, id: authority.issue(id, uris=[id, f"{id}-second"]))
peer_is(rejected, "XV-12", "a peer without a name", lambda authority, id: authority.issue(id, uris=[]))
WEB, ELSEWHERE = "https://test.example.org/xv-13", "spiffe://other.example.org/xv-15"
peer_is(rejected, "XV-13", "a peer of the web", lambda authority, id: authority.issue(id, uris=[WEB]))
peer_is(rejected, "XV-14", "a peer that is the trust domain", lambda authority, id: authority.issue(DOMAIN))
peer_is(rejected, "XV-15", "a peer of a domain without a bundle", lambda authority, id: authority.issue(ELSEWHERE))


def federate(env):
    foreign = Authority(FEDERATED)
    env.serve_and_wait(federated={FEDERATED: [foreign.der]})
    return foreign


@in_both_roles("XF-1")
def a_federated_peer_is_believed(env, accepts):
    accepted(env, accepts, federate(env).issue(f"{FEDERATED}/xf-1"), "a federated peer")


@in_both_roles("XF-2")
def bundles_are_not_pooled(env, accepts):
    foreign = federate(env)
    accepted(env, accepts, foreign.issue(f"{FEDERATED}/control"), "a federated peer")
    rejected(env, accepts, env.authority.issue(f"{FEDERATED}/xf-2"), "a foreign name under the own authority")
    rejected(env, accepts, foreign.issue(f"{DOMAIN}/xf-2"), "an own name under a foreign authority")


@in_both_roles("XF-3")
def a_domain_that_is_left_out_is_believed_no_more(env, accepts):
    peer = federate(env).issue(f"{FEDERATED}/xf-3")
    accepted(env, accepts, peer, "a federated peer")
    env.serve_and_wait()
    rejected(env, accepts, peer, "a peer of a domain that is no longer federated")


def is_no_spiffe_id(variant, uri):
    @case(f"ID-1/x509-{variant}", MUST, X509_SERVER)
    def a_malformed_name_is_rejected(env):
        rejected(env, ROLES["server"][1], env.authority.issue(uri), f"a peer called {uri}")


is_no_spiffe_id("query", f"{DOMAIN}/a?x=1")
is_no_spiffe_id("percent-encoded", f"{DOMAIN}/%41")
is_no_spiffe_id("trailing-slash", f"{DOMAIN}/a/")
is_no_spiffe_id("port", "spiffe://test.example.org:8080/a")
