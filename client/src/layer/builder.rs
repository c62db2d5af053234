//! Building the layer.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    credential::CredentialHeader,
    route::{Route, validate_scopes},
    service::KeywardService,
};
use crate::{asserted::MAX_SCOPES, client::Client, error::BuildError};

/// Rules of one layer.
const MAX_ROUTES: usize = 1_024;
/// Bytes of a keyspace, an organization, an instance or an environment.
const MAX_NAME_LEN: usize = 128;

/// Lets only requests with a valid key of one keyspace through. See [the module](self).
#[derive(Clone)]
pub struct KeywardLayer(pub(super) Arc<Settings>);

/// What a layer was built with.
pub(super) struct Settings {
    pub(super) client: Client,
    pub(super) keyspace: String,
    pub(super) credential: CredentialHeader,
    pub(super) organization: String,
    pub(super) instance: String,
    pub(super) environment: String,
    pub(super) scopes: Vec<String>,
    pub(super) routes: Vec<Route>,
    pub(super) allow_unmatched: bool,
    pub(super) strip_credential: bool,
    pub(super) end_work: bool,
}

impl KeywardLayer {
    /// A layer for the keys of this keyspace, which send their secret as bearer unless [`LayerBuilder::credential`]
    /// says otherwise. Without further settings any live key of the keyspace is let through.
    pub fn builder(client: Client, keyspace: impl Into<String>) -> LayerBuilder {
        LayerBuilder(Settings {
            client,
            keyspace: keyspace.into(),
            credential: CredentialHeader::Bearer,
            organization: String::new(),
            instance: String::new(),
            environment: String::new(),
            scopes: Vec::new(),
            routes: Vec::new(),
            allow_unmatched: false,
            strip_credential: false,
            end_work: false,
        })
    }
}

impl<S> Layer<S> for KeywardLayer {
    type Service = KeywardService<S>;

    fn layer(&self, inner: S) -> KeywardService<S> {
        KeywardService::new(inner, Arc::clone(&self.0))
    }
}

impl fmt::Debug for KeywardLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeywardLayer").field("keyspace", &self.0.keyspace).finish_non_exhaustive()
    }
}

/// Builds a [`KeywardLayer`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct LayerBuilder(Settings);

impl LayerBuilder {
    /// The header that the keyspace's keys are sent in, as its setting `credential` says.
    pub fn credential(mut self, header: CredentialHeader) -> Self {
        self.0.credential = header;
        self
    }

    /// The organization that keys must be bound to: of a service that runs for one organization.
    pub fn organization(mut self, organization: impl Into<String>) -> Self {
        self.0.organization = organization.into();
        self
    }

    /// The instance that keys must be bound to.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.0.instance = instance.into();
        self
    }

    /// The environment that keys must be bound to: for example, a sandbox host refuses a production key.
    pub fn environment(mut self, environment: impl Into<String>) -> Self {
        self.0.environment = environment.into();
        self
    }

    /// A scope that keys must have for every request that reaches the service, in addition to those of its route.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.0.scopes.push(scope.into());
        self
    }

    /// A rule for some requests. The first that fits counts. With at least one rule, a request that fits none is
    /// refused.
    pub fn route(mut self, route: Route) -> Self {
        self.0.routes.push(route);
        self
    }

    /// Lets any live key through where no rule fits.
    pub fn allow_unmatched(mut self) -> Self {
        self.0.allow_unmatched = true;
        self
    }

    /// Removes the secret from the request before the service gets it, so that the service cannot log it.
    pub fn strip_credential(mut self) -> Self {
        self.0.strip_credential = true;
        self
    }

    /// Ends requests that were let through when their key is revoked, expires or changes: the service's future is
    /// dropped and the request refused as a check of its key would be now (401; 403 for a lost scope). If the response
    /// has begun, its body ends with an error, and a gRPC stream with that status. Needs an attached client. See
    /// [`Principal::ended`](crate::Principal::ended) for the changes that end work, and when they do.
    ///
    /// Tasks that the service spawns, and connections that it upgrades, such as WebSockets, are not ended: let them
    /// wait for [`Principal::ended`](crate::Principal::ended). A body that is not read ends when it is read again, or
    /// with its connection.
    pub fn end_work(mut self) -> Self {
        self.0.end_work = true;
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// The setting that is invalid, and why.
    pub fn build(self) -> Result<KeywardLayer, BuildError> {
        let settings = self.0;
        if settings.keyspace.is_empty() {
            return Err(BuildError::new("keyspace", "is required: a key of another product must not count"));
        }
        let names = [
            ("keyspace", &settings.keyspace),
            ("organization", &settings.organization),
            ("instance", &settings.instance),
            ("environment", &settings.environment),
        ];
        for (setting, name) in names {
            if name.len() > MAX_NAME_LEN || name.chars().any(char::is_control) {
                return Err(BuildError::new(setting, "must be at most 128 bytes without control characters"));
            }
        }
        if settings.end_work && settings.client.attach_status().is_none() {
            let why = "needs an attached client, since no other can watch a key; call `attach` first";
            return Err(BuildError::new("end_work", why));
        }
        if settings.routes.len() > MAX_ROUTES {
            return Err(BuildError::new("route", "must be at most 1,024 rules"));
        }
        settings.routes.iter().try_for_each(Route::validate)?;
        validate_scopes(&settings.scopes)?;
        if settings.routes.iter().any(|route| settings.scopes.len() + route.scopes().len() > MAX_SCOPES) {
            return Err(BuildError::new(
                "scope",
                "must be at most 64 scopes, those of the layer and of a route together",
            ));
        }
        Ok(KeywardLayer(Arc::new(settings)))
    }
}

impl fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBuilder").field("keyspace", &self.0.keyspace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_never_has_more_scopes_than_the_contract_allows() {
        let layer = |own: usize, of_route: usize| {
            let client = Client::builder("http://127.0.0.1:1").build().unwrap();
            let scope = |n| format!("scope_{n}");
            let route = (0..of_route).map(scope).fold(Route::at("/a"), Route::scope);
            (0..own).map(scope).fold(KeywardLayer::builder(client, "norrix").route(route), LayerBuilder::scope).build()
        };
        assert!(layer(1, 63).is_ok());
        assert_eq!(layer(1, 64).unwrap_err().setting(), "scope");
    }
}
