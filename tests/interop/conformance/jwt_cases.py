"""JV, JB, JF and ID: which tokens the client believes, by which keys, and which it asks for."""

import json
import os
import time

import grpc
from cryptography.hazmat.primitives import hashes

from authority import Authority, TokenKey, base64url, claims, key_set, part
from cases import JWT_FETCH, JWT_VALIDATE, MUST, OPT, SHOULD, case
from harness import AUDIENCE, DEFAULT, DOMAIN, Finding

OTHER = "spiffe://other.example.org"
MINUTES = 60


def accepts(name, make, what="a valid token"):
    """`make` gets the environment and an ID, and returns a token of it."""

    @case(name, MUST, JWT_VALIDATE)
    def a_valid_token_is_accepted(env):
        id = f"{DOMAIN}/{name.lower()}"
        env.expect_accepted(make(env, id), id, what)


def rejects(name, make, what):
    @case(name, MUST, JWT_VALIDATE)
    def an_invalid_token_is_rejected(env):
        env.expect_rejected(make(env, f"{DOMAIN}/{name.lower()}"), what)


def key_of(env):
    return env.authority.tokens[0]


def with_claims(audience=("conformance",), **changes):
    return lambda env, id: key_of(env).token(claims(id, audience, **changes))


def with_header(**changes):
    return lambda env, id: key_of(env).token(claims(id), **changes)


def publish(env, *keys):
    """Adds keys to the own key set."""
    env.authority.tokens.extend(keys)
    env.endpoint.serve_key_sets({DOMAIN: env.authority.key_set()})


accepts("JV-1", with_header())


def of_algorithm(alg):
    def make(env, id):
        key = TokenKey(alg)
        publish(env, key)
        return key.token(claims(id))

    accepts(f"JV-2/{alg}", make, f"a token with {alg}")


for each in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"):
    of_algorithm(each)

rejects("JV-3", lambda env, id: f"{part(key_of(env).header({'alg': 'none'}))}.{part(claims(id))}.", "an unsigned token")
for each in ("HS256", "HS384", "HS512"):
    rejects(f"JV-4/{each}", lambda env, id, alg=each: key_of(env).mac_token(claims(id), alg, os.urandom(32)), "a MAC")
rejects(
    "JV-4/hmac-public-key", lambda env, id: key_of(env).mac_token(claims(id), "HS256", key_of(env).public_pem()),
    "a MAC under the public key",
)


@case("JV-5", MUST, JWT_VALIDATE)
def an_algorithm_beyond_the_list_is_rejected_though_its_key_is_known(env):
    foreign, barrier = TokenKey("EdDSA"), TokenKey()
    publish(env, foreign, barrier)
    id = f"{DOMAIN}/jv-5"
    env.expect_accepted(barrier.token(claims(id)), id, "a token of a key beside the Ed25519 key")
    env.expect_rejected(foreign.token(claims(id)), "an EdDSA token")


rejects("JV-6/rs256-header-ec-key", with_header(alg="RS256"), "an RS256 header over an ES256 signature")
rejects(
    "JV-6/es384-header-p256-key",
    lambda env, id: key_of(env).token(claims(id), digest=hashes.SHA384(), alg="ES384"),
    "ES384 under a P-256 key",
)
rejects("JV-7", with_claims(aud=None), "a token without aud")
rejects("JV-8", with_claims(audience=["other"]), "a token for another audience")
accepts("JV-9", with_claims(audience=["other", AUDIENCE]), "a token for several audiences")
accepts("JV-10", with_claims(aud=AUDIENCE), "a token whose aud is a string")
rejects("JV-11", with_claims(exp=None), "a token without exp")
rejects(
    "JV-12",
    lambda env, id: key_of(env).token(claims(id, iat=int(time.time()) - 10 * MINUTES, exp=int(time.time()) - 5 * MINUTES)),
    "an expired token",
)
rejects("JV-13", lambda env, id: key_of(env).token(claims(id, nbf=int(time.time()) + 5 * MINUTES)), "a token of the future")


def with_a_flipped_bit(env, id):
    signed, _, signature = key_of(env).token(claims(id)).rpartition(".")
    bits = bytearray(env.authority.tokens[0].sign(signed.encode()))
    bits[len(bits) // 2] ^= 1
    return f"{signed}.{base64url(bytes(bits))}"


def with_another_subject(env, id):
    header, _, signature = key_of(env).token(claims(id)).split(".")
    return f"{header}.{part(claims(f'{DOMAIN}/admin'))}.{signature}"


rejects("JV-14", with_a_flipped_bit, "a token with a flipped bit in its signature")
rejects("JV-15", with_another_subject, "a token whose subject was changed")
rejects("JV-16", lambda env, id: TokenKey().token(claims(id)), "a token of an unknown key")


@case("JV-17", MUST, JWT_VALIDATE)
def a_foreign_subject_needs_a_foreign_key(env):
    other = Authority(OTHER)
    env.endpoint.serve_key_sets({DOMAIN: env.authority.key_set(), OTHER: other.key_set()})
    env.expect_accepted(other.token(f"{OTHER}/control"), f"{OTHER}/control", "a foreign token")
    env.expect_rejected(env.authority.token(f"{OTHER}/jv-17"), "a foreign subject under an own key")


rejects("JV-18", lambda env, id: key_of(env).token(claims("spiffe://unknown.example.org/jv-18")), "a subject of an unknown domain")
rejects("JV-19", lambda env, id: key_of(env).token(claims("https://test.example.org/jv-19")), "a subject of the web")
accepts("JV-20/typ-JWT", with_header(typ="JWT"))
accepts("JV-20/typ-JOSE", with_header(typ="JOSE"))
accepts("JV-20/no-typ", with_header(typ=None))
rejects("JV-21", with_header(typ="at+jwt"), "a token of another type")
accepts("JV-22", with_header(kid=None), "a token without kid")
CRITICAL = "urn:x0t:unknown"
rejects("JV-23", with_header(crit=[CRITICAL], **{CRITICAL: True}), "a token with an unknown critical header")


def as_json(env, id):
    header, payload, signature = key_of(env).token(claims(id)).split(".")
    return json.dumps({"protected": header, "payload": payload, "signature": signature})


rejects("JV-24", as_json, "a token in JSON serialisation")
rejects("JV-25/two-parts", lambda env, id: key_of(env).token(claims(id)).rpartition(".")[0], "a token of two parts")


def with_a_foreign_letter(env, id):
    header, payload = part(key_of(env).header({})), part(claims(id))
    middle = len(payload) // 2
    return key_of(env).token_of(f"{header}.{payload[:middle]}!{payload[middle + 1:]}")


rejects("JV-25/bad-base64", with_a_foreign_letter, "a token with a letter beyond the alphabet")
rejects(
    "JV-25/bad-json", lambda env, id: key_of(env).token_of(f"{part(key_of(env).header({}))}.{base64url(b'no json')}"),
    "a token whose claims are no JSON",
)

# Keys.


@case("JB-1", MUST, JWT_VALIDATE)
def an_added_key_counts(env):
    key, id = TokenKey(), f"{DOMAIN}/jb-1"
    env.expect_accepted(env.authority.token(id), id, "the control")
    publish(env, key)
    env.expect_accepted(key.token(claims(id)), id, "a token of an added key")


@case("JB-2", MUST, JWT_VALIDATE)
def a_removed_key_counts_no_more(env):
    removed, barrier, id = TokenKey(), TokenKey(), f"{DOMAIN}/jb-2"
    env.endpoint.serve_key_sets({DOMAIN: key_set([key_of(env), removed])})
    token = removed.token(claims(id))
    env.expect_accepted(token, id, "a token of the added key")
    env.endpoint.serve_key_sets({DOMAIN: key_set([key_of(env), barrier])})
    env.expect_accepted(barrier.token(claims(id)), id, "the barrier")
    env.expect_rejected(token, "a token of a removed key")


@case("JB-3", SHOULD, JWT_VALIDATE)
def the_keys_of_a_removed_domain_count_no_more(env):
    other, barrier, id = Authority(OTHER), TokenKey(), f"{DOMAIN}/jb-3"
    env.endpoint.serve_key_sets({DOMAIN: env.authority.key_set(), OTHER: other.key_set()})
    token = other.token(f"{OTHER}/jb-3")
    env.expect_accepted(token, f"{OTHER}/jb-3", "a foreign token")
    publish(env, barrier)
    env.expect_accepted(barrier.token(claims(id)), id, "the barrier")
    env.expect_rejected(token, "a token of a removed domain")


@case("JB-4", MUST, JWT_VALIDATE)
def the_kid_selects_the_key(env):
    keys, id = [TokenKey() for _ in range(3)], f"{DOMAIN}/jb-4"
    env.endpoint.serve_key_sets({DOMAIN: key_set(keys)})
    for key in (keys[2], keys[1]):
        env.expect_accepted(key.token(claims(id)), id, "a token of one of three keys")


def ignores_use(variant, use, level):
    @case(f"JB-5/{variant}", level, JWT_VALIDATE)
    def a_key_for_another_use_does_not_count(env):
        bad, barrier, id = TokenKey(use=use), TokenKey(), f"{DOMAIN}/jb-5"
        env.expect_accepted(env.authority.token(id), id, "the control")
        publish(env, bad, barrier)
        env.expect_accepted(barrier.token(claims(id)), id, "a token of the key beside")
        env.expect_rejected(bad.token(claims(id)), f"a token of a key whose use is {use}")


ignores_use("missing-use", None, OPT)
ignores_use("x509-svid-use", "x509-svid", MUST)


@case("JB-6", MUST, JWT_VALIDATE)
def an_unknown_kind_of_key_costs_no_other(env):
    key, id = TokenKey(), f"{DOMAIN}/jb-6"
    env.expect_accepted(env.authority.token(id), id, "the control")
    unknown = {"kty": "UNKNOWN", "use": "jwt-svid", "kid": "jb-6", "k": "AQAB"}
    env.endpoint.serve_key_sets({DOMAIN: key_set([key_of(env), key], beside=[unknown])})
    env.expect_accepted(key.token(claims(id)), id, "a token of the key behind the unknown one")
    env.expect_accepted(env.authority.token(id), id, "a token of the key before the unknown one")


@case("JB-7", MUST, JWT_VALIDATE)
def an_empty_key_set_trusts_nobody(env):
    other, id = Authority(OTHER), f"{DOMAIN}/jb-7"
    token = env.authority.token(id)
    env.expect_accepted(token, id, "the control")
    env.endpoint.serve_key_sets({DOMAIN: b'{"keys":[]}', OTHER: other.key_set()})
    env.expect_accepted(other.token(f"{OTHER}/barrier"), f"{OTHER}/barrier", "the barrier")
    env.expect_rejected(token, "a token of a domain without keys", control=False)


@case("JB-8", MUST, JWT_VALIDATE)
def a_foreign_token_is_believed_by_its_own_keys(env):
    other = Authority(OTHER)
    env.endpoint.serve_key_sets({DOMAIN: env.authority.key_set(), OTHER: other.key_set()})
    for _ in range(2):
        env.expect_accepted(other.token(f"{OTHER}/jb-8"), f"{OTHER}/jb-8", "a foreign token")


# Asking for tokens.


def asked_for(env, audience, id=""):
    """What the client gets, and the requests that it makes for it."""
    before = len(env.endpoint.calls)
    answer = env.fetch(audience, id)
    requests = [call.request for call in env.endpoint.calls[before:] if call.method == "FetchJWTSVID"]
    return answer, requests


def fetched(answer):
    if answer["status"] != "ok":
        raise Finding(f"nothing is fetched: {answer}")
    return [svid["token"] for svid in answer["svids"]]


def passes_on(name, audience):
    @case(name, MUST, JWT_FETCH)
    def the_audience_is_passed_on(env):
        token = key_of(env).token(claims(DEFAULT, audience))
        env.endpoint.serve_tokens([(DEFAULT, token)])
        answer, requests = asked_for(env, audience)
        if fetched(answer) != [token]:
            raise Finding("another token than the server's comes back")
        if [sorted(request.audience) for request in requests] != [sorted(audience)]:
            raise Finding(f"asked for {[list(request.audience) for request in requests]}")


passes_on("JF-1", [AUDIENCE])
passes_on("JF-2", [AUDIENCE, f"{DOMAIN}/backend", "other"])


@case("JF-3", OPT, JWT_FETCH)
def the_identity_is_passed_on(env):
    other = f"{DOMAIN}/jf-3"
    tokens = {id: key_of(env).token(claims(id)) for id in (DEFAULT, other)}
    env.endpoint.serve_tokens(tokens.items())
    answer, requests = asked_for(env, [AUDIENCE], other)
    if fetched(answer) != [tokens[other]] or [request.spiffe_id for request in requests] != [other]:
        raise Finding("the identity that was asked for is not the one that comes back")


@case("JF-4", OPT, JWT_FETCH)
def a_denial_is_told(env):
    fetched(env.fetch([AUDIENCE]))
    env.endpoint.inject("FetchJWTSVID", grpc.StatusCode.PERMISSION_DENIED)
    if env.fetch([AUDIENCE])["status"] == "ok":
        raise Finding("a token is served though the server denies it")


# SPIFFE IDs, as subjects.


def is_no_id(variant, id):
    rejects(f"ID-1/{variant}", lambda env, _: key_of(env).token(claims(id)), f"the subject {id}")


is_no_id("empty-trust-domain", "spiffe:///a")
is_no_id("port", "spiffe://test.example.org:8080/a")
is_no_id("userinfo", "spiffe://u@test.example.org/a")
is_no_id("query", f"{DOMAIN}/a?x=1")
is_no_id("fragment", f"{DOMAIN}/a#f")
is_no_id("percent-encoded", f"{DOMAIN}/%41")
is_no_id("empty-segment", f"{DOMAIN}/a//b")
is_no_id("dot-segment", f"{DOMAIN}/a/./b")
is_no_id("dot-dot-segment", f"{DOMAIN}/a/../b")
is_no_id("trailing-slash", f"{DOMAIN}/a/")
is_no_id("invalid-path-char", f"{DOMAIN}/a!b")
is_no_id("invalid-trust-domain-char", "spiffe://t$d/a")


def is_id(variant, path, domain=DOMAIN):
    @case(f"ID-2/{variant}", MUST, JWT_VALIDATE)
    def an_unusual_id_is_accepted(env):
        authority = env.authority if domain == DOMAIN else Authority(domain)
        env.endpoint.serve_key_sets({DOMAIN: env.authority.key_set(), domain: authority.key_set()})
        env.expect_accepted(authority.token(domain + path), domain + path, "an unusual SPIFFE ID")


is_id("path-chars", "/Path.With-Mixed_Case/a.b-c_D/..x/x..")
is_id("trust-domain-chars", "/id-2", "spiffe://td_1.example-2.org")
is_id("ipv4-trust-domain", "/id-2", "spiffe://192.168.1.1")
is_id("max-length", "/" + "a" * (2048 - len(DOMAIN) - 1))
