//! The HTTP listener while a start waits for its database: the process lives, and all else is to be tried again.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;

use super::{Body, Place, Routes, answer::Fault, exchange, probes, serve::Front};
use crate::{
    domain::{clock::Entropy, error::Error},
    transport::terms::Peer,
};

/// What answers before there is a service.
pub struct Starting {
    entropy: Arc<dyn Entropy>,
}

impl Starting {
    /// Makes ids of requests by this entropy.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy }
    }
}

impl Front for Starting {
    fn answer<'a>(
        &'a self,
        request: Request<Body>,
        _: &'a Peer,
        routes: Routes,
    ) -> BoxFuture<'a, Response<Full<Bytes>>> {
        let live = Place::of(request.uri().path(), routes) == Some(Place::Live)
            && [Method::GET, Method::HEAD].contains(request.method());
        let mut response = if live {
            probes::live().into_response()
        } else {
            Fault::from(Error::unavailable("the service is starting")).into_response()
        };
        if let Ok(id) = HeaderValue::try_from(exchange::request_id(&*self.entropy, request.headers())) {
            response.headers_mut().insert(exchange::REQUEST_ID, id);
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
