//! A real OpenID Connect provider (`tests/run` installs it), and the tokens that it signs.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

/// The request after which the log is complete.
const LOG_MARKER: &str = "GET /log-until-now";

/// A running provider; it is killed when this is dropped.
pub struct Provider {
    child: Child,
    /// Its identifier, and where it listens.
    pub issuer: String,
    keys: Vec<Value>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Provider {
    /// Starts one with a key of its own.
    pub fn start() -> Self {
        Self::run(0, "first", &[])
    }

    /// Starts one with these variables: see `provider.mjs`.
    pub fn with_environment(environment: &[(&str, &str)]) -> Self {
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::run_with(0, "first", &[], &environment)
    }

    /// Starts one with keys of these ids, of which the first signs; `ec…` is one on P-256.
    pub fn with_keys(ids: &str) -> Self {
        Self::run(0, ids, &[])
    }

    /// Starts one whose ID tokens last for so many seconds.
    pub fn with_id_token_ttl(seconds: u32) -> Self {
        Self::run_with(0, "first", &[], &[("ID_TOKEN_TTL", seconds.to_string())])
    }

    /// Starts it again at the same address with keys of these ids; those that it had are the same ones.
    pub fn again(&mut self, ids: &str) {
        self.stop();
        let port = self.issuer.rsplit_once(':').unwrap().1.parse().unwrap();
        let mut new = Self::run(port, ids, &self.keys);
        std::mem::swap(self, &mut new);
    }

    /// Starts it again at the same address with new keys of these ids.
    pub fn again_with_new_keys(&mut self, ids: &str) {
        self.keys.clear();
        self.again(ids);
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn run(port: u16, ids: &str, keys: &[Value]) -> Self {
        Self::run_with(port, ids, keys, &[])
    }

    fn run_with(port: u16, ids: &str, keys: &[Value], environment: &[(&str, String)]) -> Self {
        let script = std::env::var("KEYWARD_TEST_OIDC").expect("KEYWARD_TEST_OIDC: tests/run sets it");
        let mut node = Command::new("node");
        node.arg(script).arg(port.to_string()).env("KEY_IDS", ids).env("KEYS", Value::from(keys.to_vec()).to_string());
        node.envs(environment.iter().map(|(name, value)| (name, value)));
        // It lives as long as its standard input: not longer than the test, however that ends.
        let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().expect("the provider starts").unwrap()).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            issuer: first["issuer"].as_str().unwrap().to_owned(),
            keys: first["keys"].as_array().unwrap().clone(),
            requests,
        }
    }

    /// How often a request like `POST /token` was answered.
    pub fn requests(&self, request: &str) -> usize {
        self.log_until_now();
        self.count(request)
    }

    /// How often it was asked for its keys.
    pub fn fetches(&self) -> usize {
        self.requests("GET /jwks")
    }

    fn count(&self, request: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|line| *line == request).count()
    }

    /// Waits until the log has each request that was answered before. The log comes by a pipe, later than the answers:
    /// so this makes a request of its own and waits for that. A provider that was stopped logs no more.
    fn log_until_now(&self) {
        let seen = self.count(LOG_MARKER);
        let Ok(mut stream) = TcpStream::connect(self.issuer.strip_prefix("http://").unwrap()) else { return };
        let request = format!("{LOG_MARKER} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let start = Instant::now();
        while self.count(LOG_MARKER) == seen {
            assert!(start.elapsed() < Duration::from_secs(30), "the provider does not log");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The table that makes Keyward trust it for some keyspaces, with more settings.
    pub fn table(&self, audience: &str, keyspaces: &[&str], more: &str) -> String {
        let issuer = &self.issuer;
        format!(
            "[[session.issuer]]\nissuer = \"{issuer}\"\naudience = \"{audience}\"\nkeyspaces = {keyspaces:?}\n\
             claims = {{ organizations = \"norrix:orgs\", role = \"norrix:role\" }}\n{more}\n"
        )
    }

    /// A token of the provider's own making for a person, by its token endpoint.
    pub async fn token(&self, audience: &str, subject: &str, organizations: &Value) -> String {
        self.issue(audience, &json!({"sub": subject, "norrix:orgs": organizations})).await
    }

    /// A token of the provider's own making with these claims.
    pub async fn issue(&self, audience: &str, claims: &Value) -> String {
        let claims = claims.to_string();
        let resource = format!("urn:{audience}");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "issuance"),
            ("client_secret", "test"),
            ("resource", &resource),
            ("claims", &claims),
        ];
        let request = client().post(format!("{}/token", self.issuer)).form(&form);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The claims of a good token of an owner of `acme`, with more, of which null takes one away.
    pub fn claims(&self, audience: &str, more: &Value) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": self.issuer, "aud": audience, "sub": "olga", "iat": now, "exp": now + 600,
            "norrix:orgs": {"acme": "owner"},
        });
        let map = claims.as_object_mut().unwrap();
        map.extend(more.as_object().unwrap().clone());
        map.retain(|_, value| !value.is_null());
        claims
    }

    /// Signs claims with the provider's own key of this id: for what the provider itself would not say.
    pub fn sign(&self, key: &str, claims: &Value) -> String {
        let header = json!({"alg": self.key(key)["alg"], "typ": "JWT", "kid": key});
        token(&header, claims, |message| self.signature(key, message))
    }

    /// The signature of a message by the provider's own key of this id.
    pub fn signature(&self, key: &str, message: &str) -> String {
        let jwk = self.key(key);
        let der = data_encoding::BASE64.decode(jwk["der"].as_str().unwrap().as_bytes()).unwrap();
        let (algorithm, encoding) = match jwk["kty"].as_str() {
            Some("EC") => (Algorithm::ES256, EncodingKey::from_ec_der(&der)),
            _ => (Algorithm::RS256, EncodingKey::from_rsa_der(&der)),
        };
        crypto::sign(message.as_bytes(), &encoding, algorithm).unwrap()
    }

    /// A public part of the provider's key, as its key set shows it.
    pub fn public(&self, key: &str, part: &str) -> String {
        self.key(key)[part].as_str().unwrap().to_owned()
    }

    fn key(&self, id: &str) -> &Value {
        self.keys.iter().find(|jwk| jwk["kid"] == id).expect("a key of the provider")
    }
}

/// A token with any header, whatever it says of its algorithm, signed by what `sign` answers for its message.
pub fn token(header: &Value, claims: &Value, sign: impl Fn(&str) -> String) -> String {
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(&message);
    format!("{message}.{signature}")
}

/// An HS256 signature.
pub fn hs256(secret: &[u8], message: &str) -> String {
    crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap()
}

/// A client without a proxy.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// Waits until Keyward has the issuer's keys, so that fetches can be counted from here.
pub async fn until_fetched(provider: &Provider, fetches: usize) {
    let start = Instant::now();
    while provider.fetches() < fetches {
        assert!(start.elapsed() < Duration::from_secs(10), "no fetch number {fetches}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
