// An HTTP service whose callers' API keys Keyward checks.
//
// KEYWARD_TARGET   a replica (keyward.internal:50051) or the agent on this host (unix:/run/keyward.sock)
// KEYWARD_API_KEY  the service's own credential: kw_..., scope `verify`
// KEYWARD_PROTO    the folder with keyward/v1/keys.proto
import http from 'node:http';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const { KEYWARD_TARGET, KEYWARD_API_KEY, KEYWARD_PROTO, PORT = '8000' } = process.env;
const definition = loader.loadSync('keyward/v1/keys.proto', {
  includeDirs: [KEYWARD_PROTO], keepCase: true, enums: String, longs: String, defaults: true,
});
const { KeyService } = grpc.loadPackageDefinition(definition).keyward.v1;
// Beyond this machine: grpc.credentials.createSsl().
const keyward = new KeyService(KEYWARD_TARGET, grpc.credentials.createInsecure());
const caller = new grpc.Metadata();
caller.set('authorization', `Bearer ${KEYWARD_API_KEY}`);

const REFUSALS = { CODE_INSUFFICIENT_SCOPE: 403, CODE_RATE_LIMITED: 429 };

/** The status for a request with this key, and the verdict. */
function check(secret, scope) {
  const request = { secret, keyspace: 'builds', required_scopes: [scope] };
  return new Promise((resolve) => {
    keyward.Verify(request, caller, { deadline: Date.now() + 2_000 }, (error, verdict) => {
      if (error) {
        // Nobody could decide. Never let such a request through.
        console.error('no verdict:', error.code, error.details);
        resolve([503, undefined]);
      } else if (verdict.code === 'CODE_VALID') {
        resolve([200, verdict]);
      } else {
        resolve([REFUSALS[verdict.code] ?? 401, verdict]);
      }
    });
  });
}

const server = http.createServer(async (request, response) => {
  const [, secret] = /^bearer +(\S+)$/i.exec(request.headers.authorization ?? '') ?? [];
  const [status, verdict] = secret ? await check(secret, 'build') : [401, undefined];
  const refusal = verdict?.message ?? (secret ? 'Try again' : 'No authentication provided');
  response.writeHead(status, status === 503 ? { 'Retry-After': '1' } : {});
  response.end(status === 200 ? `hello ${verdict.organization}` : refusal);
});
server.listen(Number(PORT), '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
