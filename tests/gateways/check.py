"""Calls Check with Envoy's own message classes (PyPI xds-protos), and reads every field of the answers.

Arguments: the address, the gateway's credential, a key of Norrix with the scope `build`, and its id.
"""

import json
import sys

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.config.core.v3 import base_pb2

address, gateway, secret, key_id = sys.argv[1:]
stub = external_auth_pb2_grpc.AuthorizationStub(grpc.insecure_channel(address))


def check(path, credential, extra=()):
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = "203.0.113.7"
    attributes.source.address.socket_address.port_value = 4711
    attributes.destination.address.socket_address.address = "203.0.113.1"
    attributes.context_extensions["keyspace"] = "norrix"
    attributes.request.time.GetCurrentTime()
    http = attributes.request.http
    http.id, http.method, http.path, http.host = "1", "GET", path, "api.example"
    http.scheme, http.protocol, http.size = "https", "HTTP/2", -1
    http.headers["authorization"] = f"Bearer {credential}"
    http.headers[":path"] = path
    for name, value in extra:
        http.headers[name] = value
    return stub.Check(request, metadata=[("authorization", f"Bearer {gateway}")], timeout=30)


def text(options):
    pairs = [(option.header.key, option.header.value) for option in options]
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert all(option.append_action == overwrite for option in options), options
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def no_unknown_fields(message):
    """A field whose number the real classes do not know would be lost on Envoy."""
    again = type(message)()
    again.CopyFrom(message)
    again.DiscardUnknownFields()
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True), message


passed = check("/api/build/1?orgId=acme", secret, [("x-keyward-other", "evil")])
no_unknown_fields(passed)
assert passed.status.code == 0 and passed.WhichOneof("http_response") == "ok_response", passed
identity = text(passed.ok_response.headers)
assert identity["x-keyward-key-id"] == key_id, identity
assert identity["x-keyward-organization"] == "acme" and identity["x-keyward-role"] == "", identity
assert len(identity) == 9, identity
assert dict(passed.dynamic_metadata) == identity, passed.dynamic_metadata
assert sorted(passed.ok_response.headers_to_remove) == ["authorization", "x-keyward-other"], passed
assert "x-request-id" in text(passed.ok_response.response_headers_to_add), passed

for path, credential, status, grpc_status, code in [
    ("/api/submit", secret, 403, 7, "insufficient_scope"),
    ("/api/build/../env", secret, 400, 3, "ambiguous_path"),
    ("/api/build", "garbage", 401, 16, "malformed"),
]:
    refused = check(path, credential)
    no_unknown_fields(refused)
    assert refused.WhichOneof("http_response") == "denied_response", refused
    assert (refused.status.code, refused.denied_response.status.code) == (grpc_status, status), refused
    assert json.loads(refused.denied_response.body)["code"] == code, refused
    assert text(refused.denied_response.headers)["content-type"] == "application/json", refused

print("good")
