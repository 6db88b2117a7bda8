// A standard OAuth server (npm: oidc-provider) as a site would run it for clawgate: each gateway is a client with
// private_key_jwt; which device a token is for stands in authorization_details (RFC 9396). Loopback only, for tests.
//
// With "tls": {"cert": PEM, "key": PEM} it speaks https, and has a second listener that asks for the client's certificate
// (metadata: mtls_endpoint_aliases), and hangs up on one that is not of "trusts" (PEM), if that is there; tokens are bound to what is shown there (RFC 8705). "binds_to" is a thumbprint that it
// names instead, as a server would that took somebody else's certificate for the gateway's.
// "throws": {"pump-3": "InvalidScope"} has it refuse a device by one of the library's errors, or fail where it is no such
// name; "grants_only" is what it grants of any scope, "clients.*.grants" and "clients.*.scope" what it allows a client.
// With "registration": "TOKEN" a client registers itself with that token, and has the devices of "registered_devices".
//
//   node server.mjs '{"clients": {"gw-1": {"jwk": {...}, "devices": ["pump-3"]}}, "audience": "urn:x", "life_s": 300}'
//
// Prints its URL as one line of JSON when it listens, and ends when its standard input does.
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { generateKeyPairSync, createPublicKey } from 'node:crypto';
import { createLocalJWKSet, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';

// Standard output is for the one line; the library's notices go to standard error.
console.log = console.info = console.error;

const site = JSON.parse(process.argv[2]);
const DETAIL = 'clawgate_device';
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';
const OURS = 'telemetry:write command:read status:write';

const listening = async (server) => {
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return server.address().port;
};
const listener = site.tls ? createTlsServer(site.tls) : createServer();
const port = await listening(listener);
const url = site.tls ? `https://localhost:${port}` : `http://127.0.0.1:${port}`;
// Whose certificate it is, is not asked: a token is bound to it, nobody is let in by it.
const mtls = site.tls && createTlsServer({ ...site.tls, requestCert: true, ca: site.trusts, rejectUnauthorized: Boolean(site.trusts) });
const mtlsUrl = mtls && `https://localhost:${await listening(mtls)}`;
const getCertificate = (ctx) => ctx.socket.getPeerX509Certificate?.();

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const signing = { ...privateKey.export({ format: 'jwk' }), kid: 'site-1', alg: 'ES256', use: 'sig' };

const owns = (clientId, device) =>
  (site.clients[clientId]?.devices ?? site.registered_devices ?? []).includes(device);
const resourceServer = (life) => ({
  scope: site.grants_only ?? OURS,
  audience: site.audience,
  accessTokenTTL: life,
  accessTokenFormat: 'jwt',
  jwt: { sign: { alg: 'ES256' } },
});

// The topics of a device, as its scopes grant them (RFC 9431's form).
const topics = ({ tenant, gateway, device }, scope) => {
  const base = `claw/v1/${tenant}/${gateway}/${device}`;
  const granted = [];
  if (device === '_gateway') { // the gateway itself
    const leaves = scope.includes('status:write') ? ['status', 'audit', 'alarm', 'reply/#'] : [];
    granted.push(...leaves.map((leaf) => [`${base}/up/${leaf}`, ['pub']]));
    if (scope.includes('command:read')) granted.push([`${base}/down/cmd/#`, ['sub']]);
    return granted;
  }
  if (scope.includes('telemetry:write')) granted.push([`${base}/up/#`, ['pub']]);
  if (scope.includes('command:read')) granted.push([`${base}/down/#`, ['sub']]);
  return granted;
};

const provider = new Provider(url, {
  jwks: { keys: [signing] },
  clients: Object.entries(site.clients).map(([client_id, { jwk, grants, scope }]) => ({
    client_id,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'ES256',
    id_token_signed_response_alg: 'ES256',
    jwks: { keys: [{ ...jwk, use: 'sig', alg: 'ES256' }] },
    grant_types: grants ?? ['client_credentials', 'refresh_token', DEVICE_CODE, ...(site.no_exchange ? [] : [EXCHANGE])],
    ...(scope && { scope }),
    authorization_details_types: [DETAIL],
    tls_client_certificate_bound_access_tokens: Boolean(site.tls),
    redirect_uris: [],
    response_types: [],
  })),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    registration: { enabled: Boolean(site.registration), initialAccessToken: site.registration ?? false },
    registrationManagement: { enabled: Boolean(site.registration) },
    revocation: { enabled: true },
    mTLS: { enabled: Boolean(site.tls), certificateBoundAccessTokens: Boolean(site.tls), getCertificate },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => {
        if (resource !== site.audience) throw new errors.InvalidTarget();
        return resourceServer(site.life_s);
      },
    },
    richAuthorizationRequests: {
      enabled: true,
      types: {
        [DETAIL]: {
          validate: (_, detail, client) => {
            const thrown = site.throws?.[detail.device];
            if (thrown) throw errors[thrown] ? new errors[thrown](`${thrown} it is`) : new Error(thrown);
            if (!owns(client.clientId, detail.device)) {
              throw new errors.InvalidAuthorizationDetails(`${client.clientId} has no device ${detail.device}`);
            }
          },
        },
      },
      authorizationDetailsForGrantSource: (ctx, source) => source.rar,
      authorizationDetailsForAccessToken: (ctx, token, source) =>
        source?.rar ?? JSON.parse(ctx.oidc.params.authorization_details),
      authorizationDetailsForIntrospection: (ctx, token) => token.rar,
    },
  },
  // A token stands for the device, not for the gateway that asks or the person who approved.
  formats: {
    customizers: {
      jwt: (ctx, token, jwt) => {
        const [detail] = token.rar ?? [];
        if (!detail) return;
        jwt.payload.sub = detail.device;
        jwt.payload.claw_aif = topics(detail, jwt.payload.scope ?? '');
        delete jwt.payload.authorization_details;
        if (site.binds_to) jwt.payload.cnf = { 'x5t#S256': site.binds_to };
        if (ctx.oidc.params.grant_type === EXCHANGE) jwt.payload.act = { sub: token.clientId };
      },
    },
  },
  discovery: mtls ? { mtls_endpoint_aliases: { token_endpoint: `${mtlsUrl}/token` } } : {},
  issueRefreshToken: () => true,
  rotateRefreshToken: () => true,
  // What a client may be limited to must stand here.
  scopes: ['openid', 'offline_access', ...(Object.values(site.clients).some(({ scope }) => scope) ? OURS.split(' ') : [])],
  findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  ttl: { ClientCredentials: site.life_s, AccessToken: site.life_s, DeviceCode: site.approval_s ?? 600, RefreshToken: site.refresh_s ?? 86400 },
  enabledJWA: { clientAuthSigningAlgValues: ['ES256'] },
});

// RFC 8693: the gateway vouches, with a JWT of its own, for the device whose token it asks for.
if (!site.no_exchange) provider.registerGrantType(EXCHANGE, async (ctx) => {
  const { client, params } = ctx.oidc;
  if (params.subject_token_type !== 'urn:ietf:params:oauth:token-type:jwt') {
    throw new errors.InvalidRequest('subject_token_type');
  }
  const keys = createLocalJWKSet({ keys: [site.clients[client.clientId].jwk] });
  const { payload } = await jwtVerify(params.subject_token, keys, { issuer: client.clientId, audience: url })
    .catch(() => { throw new errors.InvalidGrant('subject_token'); });
  if (!owns(client.clientId, payload.sub)) throw new errors.InvalidGrant(`no device ${payload.sub}`);
  const [detail] = JSON.parse(params.authorization_details);
  const token = new provider.ClientCredentials({ client, scope: params.scope });
  token.resourceServer = new provider.ResourceServer(params.resource, resourceServer(site.life_s));
  token.rar = [{ ...detail, device: payload.sub }];
  if (site.tls) token.setThumbprint('x5t', getCertificate(ctx));
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    token_type: 'Bearer',
    expires_in: token.expiration,
    scope: params.scope,
  };
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'scope', 'resource', 'authorization_details']);

// What a person does in a browser: sees which device asks, and says yes or no. "error" is what the server says instead.
const decide = async (ctx, approve, error = 'access_denied') => {
  const code = await provider.DeviceCode.findByUserCode(ctx.query.user_code.replaceAll('-', ''));
  if (!code) { ctx.status = 404; return; }
  const details = JSON.parse(code.params.authorization_details);
  if (approve) {
    const grant = new provider.Grant({ clientId: code.clientId, accountId: 'technician-7' });
    grant.addResourceScope(site.audience, code.params.scope);
    const { scope } = code.params;
    Object.assign(code, {
      accountId: 'technician-7', grantId: await grant.save(), scope, resource: site.audience, rar: details,
      authTime: Math.floor(Date.now() / 1000),
    });
  } else {
    const errorDescription = error === 'access_denied' ? 'a person said no' : 'so it is';
    // The library takes a code that it has answered with an error for used; asked again it is to say what it is told.
    Object.assign(code, { error: error || undefined, errorDescription, consumed: undefined });
  }
  await code.save();
  ctx.body = details;
};

provider.use(async (ctx, next) => {
  switch (ctx.path) {
    case '/test/approve': return decide(ctx, true);
    case '/test/deny': return decide(ctx, false, ctx.query.error);
    case '/test/forget': // the site takes a device away from its gateway
      for (const client of Object.values(site.clients)) {
        client.devices = client.devices.filter((device) => device !== ctx.query.device);
      }
      ctx.body = {};
      return undefined;
    default: return next();
  }
});

listener.on('request', provider.callback());
mtls?.on('request', provider.callback());
process.stdin.on('end', () => process.exit(0)).resume();
const published = { ...createPublicKey(privateKey).export({ format: 'jwk' }), kid: signing.kid };
process.stdout.write(`${JSON.stringify({ url, jwks: { keys: [published] } })}\n`);
