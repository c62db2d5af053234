//! The HTTP listener while a start waits for its database: the process lives, and all else is to be tried again.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;

use super::{Body, Route, Routes, probes, request, response::RestError, server::HttpHandler};
use crate::{
    domain::{clock::Entropy, error::Error},
    transport::peer::Peer,
};

/// What answers before there is a service.
pub struct Startup {
    entropy: Arc<dyn Entropy>,
}

impl Startup {
    /// Makes ids of requests by this entropy.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy }
    }
}

impl HttpHandler for Startup {
    fn answer<'a>(
        &'a self,
        request: Request<Body>,
        _: &'a Peer,
        routes: Routes,
    ) -> BoxFuture<'a, Response<Full<Bytes>>> {
        let live = Route::of(request.uri().path(), routes) == Some(Route::Live)
            && [Method::GET, Method::HEAD].contains(request.method());
        let mut response = if live {
            probes::live().into_response()
        } else {
            RestError::from(Error::unavailable("the service is starting")).into_response()
        };
        if let Ok(id) = HeaderValue::try_from(request::request_id(&*self.entropy, request.headers())) {
            response.headers_mut().insert(request::REQUEST_ID, id);
        }
        if request.method() == Method::HEAD {
            *response.body_mut() = Full::default();
        }
        std::future::ready(response).boxed()
    }

    fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }
}
