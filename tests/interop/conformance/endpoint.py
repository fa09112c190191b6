"""The Workload API as the suite plays it: it serves what it is told, fails when it is told, and writes down every call."""

import pathlib
import sys
import tempfile
import threading
import time
from concurrent import futures
from dataclasses import dataclass

import grpc
from grpc_tools import protoc

from authority import pkcs8

PROTO = pathlib.Path(__file__).resolve().parents[3] / "crates/shell/workload/proto/spiffe/workload.proto"


def stubs():
    """The messages of the Workload API, generated anew: no copy of them is kept here."""
    made = tempfile.TemporaryDirectory()
    including = pathlib.Path(protoc.__file__).parent / "_proto"
    command = ["protoc", f"-I{PROTO.parent}", f"-I{including}", f"--python_out={made.name}", str(PROTO)]
    assert protoc.main(command) == 0, "protoc refuses the Workload API"
    sys.path.insert(0, made.name)
    import workload_pb2

    return workload_pb2, made


pb, _generated = stubs()

REQUESTS = {
    "FetchX509SVID": pb.X509SVIDRequest,
    "FetchX509Bundles": pb.X509BundlesRequest,
    "FetchJWTBundles": pb.JWTBundlesRequest,
    "FetchJWTSVID": pb.JWTSVIDRequest,
    "ValidateJWTSVID": pb.ValidateJWTSVIDRequest,
}


def given(svid, bundle):
    """An X.509-SVID as the Workload API says it."""
    return pb.X509SVID(
        spiffe_id=svid.id, x509_svid=b"".join(svid.chain), x509_svid_key=pkcs8(svid.key), bundle=b"".join(bundle)
    )


@dataclass
class Call:
    method: str
    has_header: bool
    request: object
    at: float
    failed: bool = False


class Endpoint:
    """One Workload API. `address` is what clients are told."""

    def __init__(self, directory, tcp=False):
        self._lock = threading.Condition()
        self._messages = {}
        self._tokens = []
        self._errors = {}
        self._version = 0
        self._closed = (0, None)
        self.calls = []
        self.socket = str(directory / "workload.sock")
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((self,))
        if tcp:
            self.address = f"tcp://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            self.address = f"unix://{self.socket}"
        self._tcp = tcp

    def start(self):
        if not self._tcp:
            assert self._server.add_insecure_port(f"unix:{self.socket}"), "the socket cannot be made"
        self._server.start()

    def stop(self):
        self.close_streams(grpc.StatusCode.UNAVAILABLE)
        self._server.stop(0)

    # What is served.

    def serve(self, method, message):
        with self._lock:
            self._messages[method] = message
            self._version += 1
            self._lock.notify_all()

    def serve_x509(self, svids, bundle, federated=None):
        message = pb.X509SVIDResponse(
            svids=[given(svid, bundle) for svid in svids],
            federated_bundles={domain: b"".join(each) for domain, each in (federated or {}).items()},
        )
        self.serve("FetchX509SVID", message)

    def serve_key_sets(self, key_sets):
        self.serve("FetchJWTBundles", pb.JWTBundlesResponse(bundles=key_sets))

    def serve_tokens(self, tokens):
        """Pairs of a SPIFFE ID and a token."""
        self._tokens = list(tokens)

    # What fails.

    def inject(self, method, code, times=None):
        """The next calls of a method fail; all from now on, if `times` is not given."""
        self._errors[method] = [code, times]

    def clear_errors(self):
        self._errors.clear()

    def close_streams(self, code):
        with self._lock:
            self._closed = (self._closed[0] + 1, code)
            self._lock.notify_all()

    def count(self, method):
        return sum(call.method == method for call in self.calls)

    # What gRPC calls.

    def service(self, details):
        service, method = details.method.strip("/").split("/")
        if service != "SpiffeWorkloadAPI" or method not in REQUESTS:
            return None
        metadata = [value for name, value in details.invocation_metadata if name == "workload.spiffe.io"]
        read, write = REQUESTS[method].FromString, lambda message: message.SerializeToString()
        is_stream = method in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")
        answer = self._stream if is_stream else self._once

        def behaviour(request, context):
            call = Call(method, metadata == ["true"], request, time.monotonic())
            self.calls.append(call)
            self._refuse(call, context)
            return answer(method, request, context)

        handler = grpc.unary_stream_rpc_method_handler if is_stream else grpc.unary_unary_rpc_method_handler
        return handler(behaviour, request_deserializer=read, response_serializer=write)

    def _refuse(self, call, context):
        if not call.has_header:
            call.failed = True
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the security header is missing")
        error = self._errors.get(call.method)
        if error and error[1] != 0:
            if error[1] is not None:
                error[1] -= 1
            call.failed = True
            context.abort(error[0], "as told")

    def _stream(self, method, request, context):
        sent, closed = -1, self._closed[0]
        while context.is_active():
            with self._lock:
                self._lock.wait_for(lambda: self._closed[0] != closed or self._version != sent, timeout=0.2)
                if self._closed[0] != closed:
                    context.abort(self._closed[1], "the stream is closed")
                is_news = self._version != sent
                sent, message = self._version, self._messages.get(method)
            if is_news and message is not None:
                yield message

    def _once(self, method, request, context):
        if method != "FetchJWTSVID":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not played")
        wanted = [each for each in self._tokens if request.spiffe_id in ("", each[0])]
        return pb.JWTSVIDResponse(svids=[pb.JWTSVID(spiffe_id=id, svid=token) for id, token in wanted])
