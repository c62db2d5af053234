//! Query strings.

use std::collections::HashMap;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::fields;
use crate::{
    domain::{clock::Micros, validation::Violations},
    transport::rest::error::RestError,
};

/// A query string that is read parameter by parameter.
pub(crate) trait FromQuery: Sized {
    /// Takes the parameters, and records every invalid one.
    fn from_query(query: &mut Query) -> Self;
}

/// A query string; every invalid parameter is named at once, and unknown ones and those given twice are refused.
pub(crate) struct StrictQuery<T>(pub(in crate::transport::rest) T);

impl<S: Sync, T: FromQuery> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = RestError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        let mut query = Query::read(parts.uri.query().unwrap_or_default());
        let value = T::from_query(&mut query);
        query.finish()?;
        Ok(Self(value))
    }
}

/// The parameters of a query string. Each is taken once; a parameter that is left at the end is unknown.
#[derive(Default)]
pub(crate) struct Query {
    given: HashMap<String, String>,
    violations: Violations,
}

impl Query {
    fn read(text: &str) -> Self {
        let (mut query, mut repeated) = (Self::default(), 0);
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            let name: String = name.chars().take(64).collect();
            if query.given.insert(name.clone(), value.into_owned()).is_some() && repeated < fields::MAX_UNKNOWN_NAMES {
                repeated += 1;
                query.violations.add(name, "must be given once");
            }
        }
        query
    }

    /// A text; empty if absent.
    pub(crate) fn text(&mut self, name: &'static str) -> String {
        self.given.remove(name).unwrap_or_default()
    }

    /// One of several names; `None` if absent.
    pub(crate) fn one_of<T: Copy>(&mut self, name: &'static str, known: &[(&str, T)], what: &'static str) -> Option<T> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        self.violations.check(found.is_some(), name, what);
        found
    }

    /// A time in RFC 3339.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Micros> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        let time = fields::rfc3339(&text);
        self.violations.check(time.is_some(), name, "must be a time in RFC 3339, such as 2026-01-31T00:00:00Z");
        time
    }

    /// The size of a page; 0 if absent.
    pub(crate) fn limit(&mut self) -> u32 {
        match self.text("limit").as_str() {
            "" => 0,
            text => text.parse().ok().filter(|limit| (0..=1_000).contains(limit)).unwrap_or_else(|| {
                self.violations.add("limit", "must be a whole number, 1 to 1000, or 0 for 50");
                0
            }),
        }
    }

    fn finish(mut self) -> Result<(), RestError> {
        for name in self.given.into_keys().take(fields::MAX_UNKNOWN_NAMES) {
            self.violations.add(name, "unknown parameter");
        }
        self.violations.finish().map_err(RestError::from)
    }
}

/// The organization that a query names first; empty if none.
pub(crate) fn organization(parts: &Parts) -> String {
    organizations(parts).next().unwrap_or_default()
}

/// Every organization that a query names.
pub(crate) fn organizations(parts: &Parts) -> impl Iterator<Item = String> {
    let parameters = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    parameters.filter(|(name, _)| name == "orgId").map(|(_, organization)| organization.into_owned())
}

/// The organization that the query names first; empty if none.
pub(crate) struct Organization(pub(in crate::transport::rest) String);

impl<S: Sync> FromRequestParts<S> for Organization {
    type Rejection = RestError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        Ok(Self(organization(parts)))
    }
}
