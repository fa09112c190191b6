"""Authorities that issue whatever a case needs, valid or not: X.509-SVIDs and JWT-SVIDs."""

import base64
import datetime
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = datetime.timedelta(hours=1)
LEAF = {"digital_signature", "key_agreement"}
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def usage(names):
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


def pkcs8(key):
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass
class Svid:
    """A chain of DER certificates, leaf first, and the key that is handed out with it."""

    id: str
    chain: list
    key: object

    def pem(self, path):
        """Writes chain and key to one file, as Python's TLS wants them."""
        text = "".join(
            x509.load_der_x509_certificate(each).public_bytes(serialization.Encoding.PEM).decode() for each in self.chain
        )
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_text(text + key.decode())
        return path


class Authority:
    """A CA of one trust domain; under another CA if one is given."""

    def __init__(self, domain, parent=None):
        self.domain, self.parent = domain, parent
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {domain} {secrets.token_hex(4)}")])
        issuer, signer = (parent.certificate.subject, parent.key) if parent else (name, self.key)
        builder = self._builder(name, issuer, self.key, now() - HOUR, now() + 24 * HOUR)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage({"key_cert_sign", "crl_sign"}), critical=True)
        self.certificate = builder.sign(signer, hashes.SHA256())
        self.tokens = [TokenKey()]

    @staticmethod
    def _builder(subject, issuer, key, not_before, not_after):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(not_before).not_valid_after(not_after)
        return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)

    @property
    def der(self):
        return der(self.certificate)

    def intermediate(self):
        return Authority(self.domain, parent=self)

    def issue(self, id, *, uris=None, dns=(), usages=LEAF, ca=None, starts=-HOUR, lasts=2 * HOUR, subject=True):
        """An SVID for `id`. `uris` replaces the one URI SAN; without any name there is no SAN at all."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "workload")] if subject else [])
        starts = now() + starts
        builder = self._builder(name, self.certificate.subject, key, starts, starts + lasts)
        names = [x509.UniformResourceIdentifier(uri) for uri in ([id] if uris is None else uris)]
        names += [x509.DNSName(each) for each in dns]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        builder = builder.add_extension(usage(usages), critical=True)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        return Svid(id, [der(leaf)] + ([self.der] if self.parent else []), key)

    def key_set(self):
        return key_set(self.tokens)

    def token(self, sub, **changes):
        return self.tokens[0].token(claims(sub), **changes)


def key_set(keys, beside=()):
    """A JWK Set; `beside` are entries that stand before the last key."""
    entries = [key.jwk() for key in keys]
    return json.dumps({"keys": entries[:-1] + list(beside) + entries[-1:]}).encode()


def claims(sub, audience=("conformance",), **changes):
    """The claims of a token that is valid for five minutes. A claim that is `None` is left out."""
    issued = int(time.time())
    found = {"sub": sub, "aud": list(audience), "iat": issued, "exp": issued + 300, **changes}
    return {name: value for name, value in found.items() if value is not None}


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value):
    return base64url(json.dumps(value).encode())


CURVES = {
    "ES256": (ec.SECP256R1(), "P-256", 32), "ES384": (ec.SECP384R1(), "P-384", 48), "ES512": (ec.SECP521R1(), "P-521", 66)
}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


class TokenKey:
    """A key that signs JWT-SVIDs with one algorithm."""

    def __init__(self, alg="ES256", use="jwt-svid"):
        self.alg, self.use, self.kid = alg, use, secrets.token_hex(8)
        if alg in CURVES:
            self.key = ec.generate_private_key(CURVES[alg][0])
        elif alg == "EdDSA":
            self.key = ed25519.Ed25519PrivateKey.generate()
        else:
            self.key = rsa.generate_private_key(65537, 2048)

    def jwk(self):
        found = {"kid": self.kid, **({"use": self.use} if self.use else {})}
        public = self.key.public_key()
        if self.alg in CURVES:
            _, curve, length = CURVES[self.alg]
            numbers = public.public_numbers()
            x, y = (base64url(each.to_bytes(length, "big")) for each in (numbers.x, numbers.y))
            return {**found, "kty": "EC", "crv": curve, "x": x, "y": y}
        if self.alg == "EdDSA":
            return {**found, "kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
        numbers = public.public_numbers()
        n, e = (base64url(each.to_bytes((each.bit_length() + 7) // 8, "big")) for each in (numbers.n, numbers.e))
        return {**found, "kty": "RSA", "n": n, "e": e}

    def sign(self, signed, digest=None):
        """The signature over `signed`, in the form of a JWS; with another hash than the algorithm's if one is given."""
        digest = digest or HASHES.get(self.alg[2:])
        if self.alg in CURVES:
            length = CURVES[self.alg][2]
            r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(digest)))
            return r.to_bytes(length, "big") + s.to_bytes(length, "big")
        if self.alg == "EdDSA":
            return self.key.sign(signed)
        if self.alg.startswith("PS"):
            return self.key.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return self.key.sign(signed, padding.PKCS1v15(), digest)

    def header(self, changes):
        found = {"alg": self.alg, "kid": self.kid, "typ": "JWT", **changes}
        return {name: value for name, value in found.items() if value is not None}

    def token(self, payload, digest=None, **changes):
        """A compact token; `changes` are to the header, where `None` leaves a member out."""
        signed = f"{part(self.header(changes))}.{part(payload)}"
        return f"{signed}.{base64url(self.sign(signed.encode(), digest))}"

    def token_of(self, signed):
        """A compact token over exactly this text."""
        return f"{signed}.{base64url(self.sign(signed.encode()))}"

    def mac_token(self, payload, alg, secret):
        """A token with a MAC where a signature should be."""
        signed = f"{part(self.header({'alg': alg}))}.{part(payload)}"
        mac = hmac.new(secret, signed.encode(), getattr(hashlib, f"sha{alg[2:]}")).digest()
        return f"{signed}.{base64url(mac)}"

    def public_pem(self):
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
