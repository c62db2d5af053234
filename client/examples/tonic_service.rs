//! A tonic service that only keys of the keyspace `default` may call.
//!
//! ```sh
//! KEYWARD_URL=http://127.0.0.1:50051 KEYWARD_API_KEY=kw_… cargo run -p keyward-client --example tonic_service
//! ```

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use keyward_client::{AttachOptions, BuildError, Client, KeywardLayer, Principal, layer::Route};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    service::Routes,
};
use tonic_prost::ProstCodec;
use tower::{Layer as _, Service};

/// `rpc WhoAmI(google.protobuf.Empty) returns (google.protobuf.StringValue)`: what it answers.
struct WhoAmI;

impl UnaryService<()> for WhoAmI {
    type Response = String;
    type Future = Ready<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<()>) -> Self::Future {
        // The layer has put it there. A service that is not behind the layer refuses everybody.
        ready(match request.extensions().get::<Principal>() {
            Some(caller) => Ok(Response::new(caller.key_id().to_owned())),
            None => Err(Status::internal("the layer is missing")),
        })
    }
}

/// The service `example.Callers`, as tonic's code generator would write it from a `.proto`.
#[derive(Clone)]
pub struct Callers;

impl NamedService for Callers {
    const NAME: &'static str = "example.Callers";
}

impl Service<http::Request<Body>> for Callers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != "/example.Callers/WhoAmI" {
                return Ok(Status::unimplemented("there is no such call").into_http());
            }
            Ok(Grpc::new(ProstCodec::<String, ()>::default()).unary(WhoAmI, request).await)
        })
    }
}

/// The service, guarded by the Keyward that the client speaks to. The layer may as well be given to `Server::layer`,
/// for all services of a listener.
///
/// # Errors
///
/// A rule that is not good.
pub fn service(client: Client) -> Result<Routes, BuildError> {
    let guard =
        KeywardLayer::builder(client, "default").route(Route::at("/example.Callers/WhoAmI").scope("read")).build()?;
    Ok(Routes::new(guard.layer(Callers)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client =
        Client::builder(std::env::var("KEYWARD_URL")?).credential(std::env::var("KEYWARD_API_KEY")?).build()?;
    // Valid keys are kept in memory, as strictly as by calls.
    client.attach(AttachOptions::default())?;
    let address = "127.0.0.1:3001".parse()?;
    println!("listening on {address}");
    tonic::transport::Server::builder().add_routes(service(client)?).serve(address).await?;
    Ok(())
}
