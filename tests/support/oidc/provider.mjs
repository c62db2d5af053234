// A real OpenID Connect provider for tests: `node provider.mjs PORT`. It writes one JSON line once it listens (its
// issuer, and its private keys, so that tests can sign what the provider itself would not), and then a line
// `METHOD PATH` for each request. Port 0 lets the system choose. It ends when its standard input does.
//
// Environment: KEY_IDS, comma-separated ids of its keys (default `first`; the first one signs; `ec…` is one on P-256),
// and KEYS, the keys of a former run in JSON, of which those with these ids are used again. CLOCK_OFFSET is by how many
// seconds its clock is wrong. Its token endpoint answers as long as there is a file TOKEN_GATE.

import { generateKeyPairSync } from 'node:crypto';
import { existsSync } from 'node:fs';
import { createServer } from 'node:http';

import { Provider } from 'oidc-provider';

const ids = (process.env.KEY_IDS ?? 'first').split(',');
const deviceFlow = process.env.DEVICE_FLOW !== 'off';
const offset = 1000 * Number(process.env.CLOCK_OFFSET ?? 0);
const gate = process.env.TOKEN_GATE;
const former = JSON.parse(process.env.KEYS ?? '[]');

if (offset) {
  const now = Date.now;
  Date.now = () => now() + offset;
}

function make(kid, index) {
  const kept = former.find((key) => key.kid === kid);
  if (kept) return kept;
  const ec = kid.startsWith('ec');
  const { privateKey } = ec
    ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
    : generateKeyPairSync('rsa', { modulusLength: 2048 });
  const der = privateKey.export({ format: 'der', type: ec ? 'pkcs8' : 'pkcs1' }).toString('base64');
  return { ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: ec ? 'ES256' : 'RS256', der };
}

const keys = ids.map(make);

const server = createServer();
server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const redirect = 'https://dashboard.example/callback';
  const common = { client_secret: 'test', token_endpoint_auth_method: 'client_secret_post' };
  const provider = new Provider(issuer, {
    clients: [
      // Whatever asks for a token of a person's is written into the request: see `formats` below.
      { ...common, client_id: 'issuance', grant_types: ['client_credentials'], response_types: [], redirect_uris: [] },
      // A dashboard, where people log in.
      {
        ...common,
        client_id: 'dashboard',
        grant_types: ['authorization_code'],
        response_types: ['code'],
        redirect_uris: [redirect],
      },
      // A command line: a public client, at any port of the loopback interface (RFC 8252).
      {
        client_id: 'cli',
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code', 'refresh_token'].concat(
          deviceFlow ? 'urn:ietf:params:oauth:grant-type:device_code' : [],
        ),
        response_types: ['code'],
        redirect_uris: ['http://127.0.0.1/callback'],
      },
      // Keyward's own dashboard, at any port of the loopback interface.
      {
        ...common,
        client_id: 'keyward',
        application_type: 'native',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: ['http://127.0.0.1/dashboard/sign-in/callback'],
      },
    ],
    jwks: { keys: keys.map(({ der, ...key }) => key) },
    cookies: { keys: ['only for tests'] },
    pkce: { required: () => true },
    conformIdTokenClaims: false,
    claims: { openid: ['sub', 'norrix:orgs', 'norrix:role'] },
    // A refresh token is used once. Lifetimes are of seconds where a test waits for their end.
    issueRefreshToken: async (_, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    ttl: { IdToken: Number(process.env.ID_TOKEN_TTL ?? 3600) },
    // People are named `<subject>/<organization>/<role>` at the login form; `a+b` is two organizations.
    async findAccount(_, id) {
      const [sub, organization, role] = id.split('/');
      return {
        accountId: id,
        claims: () => ({ sub, 'norrix:orgs': organization?.includes('+') ? organization.split('+') : organization, 'norrix:role': role }),
      };
    },
    features: {
      devInteractions: { enabled: true },
      deviceFlow: { enabled: deviceFlow },
      revocation: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: '',
          audience: resource.replace('urn:', ''),
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: keys[0].alg } },
        }),
      },
    },
    formats: {
      customizers: {
        jwt(ctx, _, token) {
          Object.assign(token.payload, JSON.parse(ctx.oidc.body.claims ?? '{}'));
        },
      },
    },
  });
  server.on('request', (request) => console.log(`${request.method} ${request.url.split('?')[0]}`));
  const handle = provider.callback();
  server.on('request', (request, response) => {
    const answer = () => {
      if (gate && request.url === '/token' && !existsSync(gate)) setTimeout(answer, 20);
      else handle(request, response);
    };
    answer();
  });
  console.log(JSON.stringify({ issuer, keys }));
});

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
