//! Which requests need which scopes.

use http::Method;

use crate::{asserted::MAX_SCOPES, error::BuildError};

const MAX_SCOPE_LEN: usize = 64;

/// A rule for the requests of some paths and methods. The first rule that fits a request counts.
#[derive(Debug, Clone)]
#[must_use = "a route does nothing until it is given to a layer"]
pub struct Route {
    pattern: String,
    methods: Vec<String>,
    scopes: Vec<String>,
    cost: Option<u32>,
    public: bool,
}

impl Route {
    /// The requests of a path. `/api/build/*` is `/api/build` and everything below it; without `/*` the path is exact;
    /// `{name}` is any one segment. A gRPC call is `/package.Service/Method`.
    pub fn at(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), methods: Vec::new(), scopes: Vec::new(), cost: None, public: false }
    }

    /// Only requests of these methods. Without it: any.
    pub fn methods(mut self, methods: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.methods.extend(methods.into_iter().map(Into::into));
        self
    }

    /// A scope that the key must have. Name it again for further ones: the key must have all of them.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// How much a request counts against the key's rate limit: 1 if it is not set; 0 counts nothing.
    pub fn cost(mut self, cost: u32) -> Self {
        self.cost = Some(cost);
        self
    }

    /// Needs no key. Such requests have no principal, also if they carry a key.
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// What is wrong with the route.
    pub(super) fn validate(&self) -> Result<(), BuildError> {
        let path = self.pattern.strip_suffix("/*").unwrap_or(&self.pattern);
        let plain =
            path.is_empty() && self.pattern == "/*" || super::path::plain(path).is_some_and(|plain| plain == path);
        let visible = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'*'));
        let braces = path.split('/').all(|segment| is_wildcard(segment) || !segment.contains(['{', '}']));
        if !plain || !visible || !braces {
            return Err(BuildError::new("route", "must be a plain path such as /api/build/* or /api/{id}"));
        }
        if self.methods.iter().any(|method| method.parse::<Method>().is_err() || method.to_ascii_uppercase() != *method)
        {
            return Err(BuildError::new("route.methods", "must be methods in capital letters"));
        }
        if self.public && !self.scopes.is_empty() {
            return Err(BuildError::new("route.scope", "a public route has no key that could have a scope"));
        }
        validate_scopes(&self.scopes)
    }

    /// Whether the rule fits a request of this plain path.
    pub(super) fn fits(&self, method: &Method, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|own| own == method.as_str())) && self.fits_path(path)
    }

    fn fits_path(&self, path: &str) -> bool {
        let (pattern, below) = match self.pattern.strip_suffix("/*") {
            Some(pattern) => (pattern, true),
            None => (&*self.pattern, false),
        };
        if pattern.is_empty() {
            return true;
        }
        let mut segments = path.split('/');
        for wanted in pattern.split('/') {
            let fits = segments
                .next()
                .is_some_and(|found| if is_wildcard(wanted) { !found.is_empty() } else { found == wanted });
            if !fits {
                return false;
            }
        }
        below || segments.next().is_none()
    }

    pub(super) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    pub(super) fn spends(&self) -> Option<u32> {
        self.cost
    }

    pub(super) fn is_public(&self) -> bool {
        self.public
    }
}

/// What is wrong with the scopes of a rule.
pub(super) fn validate_scopes(scopes: &[String]) -> Result<(), BuildError> {
    let good = |scope: &String| {
        (1..=MAX_SCOPE_LEN).contains(&scope.len())
            && scope.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
    };
    if scopes.len() > MAX_SCOPES || !scopes.iter().all(good) {
        return Err(BuildError::new("scope", "must be at most 64 scopes of 1 to 64 characters [A-Za-z0-9._:-]"));
    }
    Ok(())
}

fn is_wildcard(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && !name.contains(['{', '}']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, fits, fits_not) in [
            ("/api/build", &["/api/build"][..], &["/api/build/", "/api/build/1", "/api/builds", "/api"][..]),
            ("/api/build/*", &["/api/build", "/api/build/", "/api/build/1/2"], &["/api/builds", "/api", "/"]),
            ("/api/{id}/logs", &["/api/1/logs"], &["/api//logs", "/api/logs", "/api/1/2/logs", "/api/1/logs/x"]),
            ("/api/{id}/*", &["/api/1", "/api/1/logs"], &["/api", "/api/"]),
            ("/*", &["/", "/a", "/a/b"], &[]),
            ("/", &["/"], &["/a"]),
        ] {
            let route = Route::at(pattern);
            assert_eq!(route.validate(), Ok(()), "{pattern}");
            for path in fits {
                assert!(route.fits(&Method::GET, path), "{pattern} {path}");
            }
            for path in fits_not {
                assert!(!route.fits(&Method::GET, path), "{pattern} {path}");
            }
        }
        let route = Route::at("/a").methods(["GET"]);
        assert!(route.fits(&Method::GET, "/a") && !route.fits(&Method::HEAD, "/a"));
    }

    #[test]
    fn bad_routes_are_named() {
        for pattern in ["", "api", "/a/../b", "/a//b", "/a*", "/a/*/b", "/a?b", "/{", "/{}", "/a{b}", "/%61", "/ä", "*"]
        {
            assert!(Route::at(pattern).validate().is_err(), "{pattern}");
        }
        assert!(Route::at("/a").methods(["get"]).validate().is_err());
        assert!(Route::at("/a").methods(["G T"]).validate().is_err());
        assert!(Route::at("/a").scope("two words").validate().is_err());
        assert!(Route::at("/a").scope("").validate().is_err());
        assert!(Route::at("/a").scope("build").public().validate().is_err());
    }
}
