//! A browser without script: it keeps cookies, follows no redirect by itself, and sends the forms of pages.

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder, header::HeaderMap};

use super::server::{ROOT, Server};

pub const KEYS: &str = "/dashboard/settings/api-keys";

/// The policy of every page, word by word.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src \
                          'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A browser.
#[derive(Debug, Clone)]
pub struct Browser {
    origin: String,
    pub cookies: BTreeMap<String, String>,
}

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub html: String,
}

impl Page {
    /// A header's text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Where the browser is sent.
    #[track_caller]
    pub fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{}", self.html);
        self.header("location")
    }

    /// Checks the status, and returns the page.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.html);
        self
    }

    /// Checks that the page has a text.
    #[track_caller]
    pub fn has(self, text: &str) -> Self {
        assert!(self.html.contains(text), "\"{text}\" is not in\n{}", self.html);
        self
    }

    /// The value of the first field with this name.
    #[track_caller]
    pub fn value(&self, name: &str) -> String {
        let field = format!(" name=\"{name}\" ");
        let start = self.html.find(&field).unwrap_or_else(|| panic!("no field {name} in\n{}", self.html));
        // From the beginning of the element on: `value` may come before or after.
        let element = &self.html[self.html[..start].rfind('<').unwrap()..];
        let element = &element[..element.find('>').unwrap()];
        let value = element.split("value=\"").nth(1).map(|rest| rest.split('"').next().unwrap());
        unescaped(value.unwrap_or_default())
    }

    /// What is between two texts.
    #[track_caller]
    pub fn between(&self, before: &str, after: &str) -> String {
        let rest = self.html.split(before).nth(1).unwrap_or_else(|| panic!("no \"{before}\" in\n{}", self.html));
        unescaped(rest.split(after).next().unwrap())
    }

    /// The secret that the page shows.
    #[track_caller]
    pub fn secret(&self) -> String {
        self.between("aria-labelledby=\"key-label\">", "<")
    }
}

fn unescaped(text: &str) -> String {
    let pairs = [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

impl Browser {
    pub fn new(server: &Server) -> Self {
        Self { origin: format!("http://{}", server.http), cookies: BTreeMap::new() }
    }

    /// One that is signed in with a credential.
    pub async fn with(server: &Server, credential: &str) -> Self {
        let mut browser = Self::new(server);
        let page = browser.sign_in(credential).await;
        assert_eq!(page.location(), "/dashboard", "{}", page.html);
        browser
    }

    /// One that is signed in as the operator.
    pub async fn operator(server: &Server) -> Self {
        Self::with(server, ROOT).await
    }

    /// A request with the browser's cookies, to be finished by [`Self::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let client = super::oidc::client();
        let url = if path.starts_with('/') { format!("{}{path}", self.origin) } else { path.to_owned() };
        let mut request = client.request(method, url);
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", pairs.join("; "));
        }
        request
    }

    /// Sends a request, and keeps the cookies of its response.
    pub async fn send(&mut self, request: RequestBuilder) -> Page {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        for cookie in headers.get_all("set-cookie") {
            let text = cookie.to_str().unwrap();
            let (pair, attributes) = text.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Page { status, headers, html: response.text().await.unwrap() }
    }

    /// Gets a page.
    pub async fn get(&mut self, path: &str) -> Page {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends a form as a page of the same origin does.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let request = self.request(Method::POST, path).header("sec-fetch-site", "same-origin").form(fields);
        self.send(request).await
    }

    /// The token that the forms of this session carry.
    pub async fn token(&mut self) -> String {
        self.get("/dashboard/settings/sessions").await.is(200).value("token")
    }

    /// Sends a form with the token of this session.
    pub async fn act(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let token = self.token().await;
        let fields = [&[("token", token.as_str())], fields].concat();
        self.post(path, &fields).await
    }

    /// Signs in with a credential.
    pub async fn sign_in(&mut self, credential: &str) -> Page {
        let token = self.get("/dashboard/sign-in").await.is(200).value("token");
        self.post("/dashboard/sign-in", &[("token", &token), ("return_to", ""), ("credential", credential)]).await
    }

    /// The fields of the form that creates a key of the default keyspace, with a name filled in.
    pub async fn creation(&mut self, name: &str) -> [(&'static str, String); 4] {
        let form = self.get(&format!("{KEYS}/new")).await.is(200);
        [
            ("token", form.value("token")),
            ("once", form.value("once")),
            ("keyspace", "default".to_owned()),
            ("name", name.to_owned()),
        ]
    }

    /// Creates a key by its form; the page with the secret.
    pub async fn create(&mut self, fields: &[(&str, &str)]) -> Page {
        let keyspace = fields.iter().find(|(name, _)| *name == "keyspace").map_or("default", |(_, value)| *value);
        let form = self.get(&format!("{KEYS}/new?keyspace={keyspace}")).await.is(200);
        let (token, once) = (form.value("token"), form.value("once"));
        let known = |name: &str| fields.iter().any(|(own, _)| *own == name);
        let mut all = vec![("token", token.as_str()), ("once", once.as_str())];
        all.extend([("keyspace", keyspace), ("expiry", "never")].into_iter().filter(|(name, _)| !known(name)));
        all.extend(fields);
        self.post(KEYS, &all).await
    }
}
