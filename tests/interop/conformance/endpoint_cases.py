"""EP, WA, HX: how the client finds the Workload API, follows it, and what it does not take from it."""

import time

import grpc

from authority import HOUR, LEAF, Authority, Svid
from cases import MUST, OPT, SHOULD, X509_SERVER, case
from endpoint import REQUESTS, given, pb
from harness import AUDIENCE, DEFAULT, DOMAIN, Finding, NotExecuted, NotReady, POLL

WATCH = 1.0
"""Seconds for which a bad message must show no effect before the barrier comes."""


def first_is_shown(env):
    leaf = env.shown()
    if leaf is None:
        raise Finding(f"no identity is shown: {env.errors()}")


@case("EP-1", MUST, X509_SERVER, by_hand=True)
def finds_the_endpoint_in_the_environment(env):
    env.endpoint.start()
    env.start()
    first_is_shown(env)


@case("EP-2", MUST, X509_SERVER, by_hand=True)
def every_call_carries_the_header(env):
    env.endpoint.start()
    env.start()
    env.validate(env.authority.token(DEFAULT))
    env.fetch([AUDIENCE])
    calls = env.endpoint.calls
    if bare := [call.method for call in calls if not call.has_header]:
        raise Finding(f"without the header: {bare}")
    if missing := {"FetchX509SVID", "FetchJWTBundles", "FetchJWTSVID"} - {call.method for call in calls}:
        raise NotExecuted(f"never called: {missing}")


@case("EP-3", SHOULD, X509_SERVER, tcp=True, by_hand=True)
def a_tcp_endpoint_is_supported(env):
    env.endpoint.start()
    env.start()
    first_is_shown(env)


def refuses_address(env, address):
    env.endpoint.start()
    try:
        env.start(within=3, address=address)
    except NotReady:
        pass
    else:
        raise Finding(f"{address} is taken for an endpoint")
    if env.endpoint.calls:
        raise Finding(f"the client is not ready with {address}, and yet it called")
    env.start()
    first_is_shown(env)


@case("EP-4/unix-authority", OPT, X509_SERVER, by_hand=True)
def an_authority_in_a_unix_address_is_refused(env):
    refuses_address(env, f"unix://localhost{env.endpoint.socket}")


@case("EP-4/tcp-path", OPT, X509_SERVER, tcp=True, by_hand=True)
def a_path_in_a_tcp_address_is_refused(env):
    refuses_address(env, f"{env.endpoint.address}/foo")


def retries(env, code):
    env.endpoint.start()
    env.endpoint.inject("FetchX509SVID", code, 3)
    env.start(within=30)
    calls = [call for call in env.endpoint.calls if call.method == "FetchX509SVID"]
    first = next(number for number, call in enumerate(calls) if not call.failed)
    if first != 3:
        raise NotExecuted(f"{first} calls failed, not three")
    pause = (calls[first].at - calls[0].at) / first
    if pause < 0.05:
        raise Finding(f"the client asks again after {pause:.3f} s on average")


@case("EP-5", SHOULD, X509_SERVER, by_hand=True)
def asks_again_after_unavailable(env):
    retries(env, grpc.StatusCode.UNAVAILABLE)


@case("EP-6", SHOULD, X509_SERVER, by_hand=True)
def asks_again_after_permission_denied(env):
    retries(env, grpc.StatusCode.PERMISSION_DENIED)


@case("EP-7", SHOULD, X509_SERVER, by_hand=True)
def asks_no_more_after_invalid_argument(env):
    env.endpoint.start()
    for method in REQUESTS:
        env.endpoint.inject(method, grpc.StatusCode.INVALID_ARGUMENT)
    try:
        env.start(within=5)
    except NotReady:
        pass
    else:
        raise Finding("ready, though every call failed")
    if not env.endpoint.calls:
        raise NotExecuted("nothing was called")
    if again := {method: env.endpoint.count(method) for method in REQUESTS if env.endpoint.count(method) > 2}:
        raise Finding(f"called again: {again}")
    env.endpoint.clear_errors()
    env.start()
    first_is_shown(env)


@case("EP-8", OPT, X509_SERVER, by_hand=True)
def an_endpoint_that_comes_later_is_found(env):
    try:
        env.start(within=2)
    except NotReady as why:
        if "ended" in str(why):
            raise Finding(f"the client gives up: {why}") from None
    else:
        raise NotExecuted("ready without an endpoint")
    env.endpoint.start()
    env.wait_until_ready(30)
    first_is_shown(env)


@case("WA-1", SHOULD, X509_SERVER)
def a_closed_stream_is_opened_again(env):
    svid, before = env.authority.issue(f"{DOMAIN}/wa-1"), env.endpoint.count("FetchX509SVID")
    env.endpoint.close_streams(grpc.StatusCode.UNAVAILABLE)
    deadline = time.monotonic() + 15
    while env.endpoint.count("FetchX509SVID") == before:
        if time.monotonic() > deadline:
            raise Finding("the stream is not opened again within 15 s")
        time.sleep(POLL)
    env.serve(svid)
    env.wait_for(svid)


def only(before, bad, what):
    """Judges what is shown until the barrier: always `before`, never `bad`, never nothing."""

    def judge(leaf):
        if leaf is None:
            raise Finding(f"after {what}, no identity is shown")
        if leaf == bad:
            raise Finding(f"{what} is shown")
        if leaf != before:
            raise Finding(f"after {what}, something unknown is shown")

    return judge


def is_ignored(env, push, bad, what):
    """A valid SVID, the bad message, a valid one again: the bad one must leave no trace."""
    before, barrier = env.authority.issue(f"{DOMAIN}/before"), env.authority.issue(f"{DOMAIN}/barrier")
    env.serve(before)
    env.wait_for(before)
    push()
    judge, end = only(before.chain[0], bad, what), time.monotonic() + WATCH
    while time.monotonic() < end:
        judge(env.shown())
        time.sleep(POLL)
    env.serve(barrier)
    env.wait_for(barrier, meanwhile=judge)


def discards(field, clear):
    @case(f"WA-2/{field}", SHOULD, X509_SERVER)
    def a_message_that_lacks_something_changes_nothing(env):
        bad = env.authority.issue(f"{DOMAIN}/wa-2-bad")
        message = pb.X509SVIDResponse(svids=[given(bad, [env.authority.der])])
        clear(message)
        is_ignored(env, lambda: env.endpoint.serve("FetchX509SVID", message), bad.chain[0], f"a message with {field}")


discards("empty-svids", lambda message: message.ClearField("svids"))
discards("empty-spiffe-id", lambda message: message.svids[0].ClearField("spiffe_id"))
discards("empty-x509-svid", lambda message: message.svids[0].ClearField("x509_svid"))
discards("empty-key", lambda message: message.svids[0].ClearField("x509_svid_key"))
discards("empty-bundle", lambda message: message.svids[0].ClearField("bundle"))


@case("WA-3", MUST, X509_SERVER)
def the_first_svid_is_the_default(env):
    a, b = env.authority.issue(f"{DOMAIN}/wa-3-a"), env.authority.issue(f"{DOMAIN}/wa-3-b")
    env.serve(a, b)
    env.wait_for(a)
    env.serve(b, a)
    env.wait_for(b)


@case("WA-4", SHOULD, X509_SERVER)
def after_permission_denied_nothing_is_shown(env):
    before = env.shown()
    env.endpoint.inject("FetchX509SVID", grpc.StatusCode.PERMISSION_DENIED)
    env.endpoint.close_streams(grpc.StatusCode.PERMISSION_DENIED)
    deadline = time.monotonic() + 5
    while env.shown() == before:
        if time.monotonic() > deadline:
            raise Finding("the identity is shown for more than five seconds after it was taken back")
        time.sleep(POLL)


def hardened(name, what, make):
    @case(name, OPT, X509_SERVER)
    def a_bad_svid_is_not_taken(env):
        bad = make(env, f"{DOMAIN}/{name.lower()}")
        is_ignored(env, lambda: env.serve(bad), bad.chain[0], f"an SVID {what}")


def with_a_broken_signature(env, id):
    svid = env.authority.issue(id)
    leaf = bytearray(svid.chain[0])
    leaf[-1] ^= 1
    return Svid(id, [bytes(leaf)], svid.key)


def of_another_key(env, id):
    return Svid(id, env.authority.issue(id).chain, env.authority.issue(id).key)


def of_another_name(env, id):
    svid = env.authority.issue(id)
    return Svid(f"{id}-claimed", svid.chain, svid.key)


hardened("HX-1", "with a broken signature", with_a_broken_signature)
hardened("HX-2", "of an authority that is not in the bundle", lambda env, id: Authority(DOMAIN).issue(id))
hardened("HX-3", "that has expired", lambda env, id: env.authority.issue(id, starts=-2 * HOUR, lasts=HOUR))
hardened("HX-4", "that is a CA", lambda env, id: env.authority.issue(id, ca=True))
hardened("HX-5", "that may sign certificates", lambda env, id: env.authority.issue(id, usages=LEAF | {"key_cert_sign"}))
hardened("HX-6", "with two URI names", lambda env, id: env.authority.issue(id, uris=[id, f"{id}-second"]))
hardened("HX-7", "with a name of the web", lambda env, id: env.authority.issue(id, uris=["https://test.example.org/hx-7"]))
hardened("HX-8", "with another key", of_another_key)
hardened("HX-9", "with another name than it says", of_another_name)
