"""An HTTP service whose callers' API keys Keyward checks.

KEYWARD_TARGET   a replica (keyward.internal:50051) or the agent on this host (unix:/run/keyward.sock)
KEYWARD_API_KEY  the service's own credential: kw_..., scope `verify`
"""
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from keyward.v1 import keys_pb2, keys_pb2_grpc

# Beyond this machine: grpc.secure_channel(target, grpc.ssl_channel_credentials()).
channel = grpc.insecure_channel(os.environ["KEYWARD_TARGET"])
keyward = keys_pb2_grpc.KeyServiceStub(channel)
CALLER = (("authorization", "Bearer " + os.environ["KEYWARD_API_KEY"]),)

REFUSALS = {
    keys_pb2.CODE_INSUFFICIENT_SCOPE: 403,
    keys_pb2.CODE_RATE_LIMITED: 429,
}


def check(secret, scope):
    """The status for a request with this key, and the verdict."""
    request = keys_pb2.VerifyRequest(secret=secret, keyspace="builds", required_scopes=[scope])
    try:
        verdict = keyward.Verify(request, metadata=CALLER, timeout=2)
    except grpc.RpcError as error:
        # Nobody could decide. Never let such a request through.
        print("no verdict:", error.code(), error.details(), flush=True)
        return 503, None
    if verdict.code == keys_pb2.CODE_VALID:
        return 200, verdict
    return REFUSALS.get(verdict.code, 401), verdict


class Service(BaseHTTPRequestHandler):
    def do_GET(self):
        scheme, _, secret = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            return self.answer(401, "No authentication provided")
        status, verdict = check(secret, "build")
        if status == 200:
            return self.answer(200, "hello " + verdict.organization)
        self.answer(status, verdict.message if verdict else "Try again")

    def answer(self, status, text):
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Service)
print("listening on %s:%d" % server.server_address, flush=True)
server.serve_forever()
