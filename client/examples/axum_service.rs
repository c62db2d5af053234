//! An axum service that only keys of the keyspace `default` may call.
//!
//! ```sh
//! KEYWARD_URL=http://127.0.0.1:50051 KEYWARD_API_KEY=kw_… cargo run -p keyward-client --example axum_service
//! curl -H "authorization: Bearer ak_…" http://127.0.0.1:3000/api/builds/7
//! ```

use axum::{
    Extension, Router,
    extract::Path,
    routing::{get, post},
};
use keyward_client::{AttachOptions, BuildError, Client, KeywardLayer, Principal, layer::Route};

/// The service, guarded by the Keyward that the client speaks to.
///
/// # Errors
///
/// A rule that is not good.
pub fn service(client: Client) -> Result<Router, BuildError> {
    let guard = KeywardLayer::builder(client, "default")
        .route(Route::at("/healthz").public())
        .route(Route::at("/api/builds/{id}").methods(["GET"]))
        .route(Route::at("/api/builds/*").scope("build"))
        .strip_credential()
        .build()?;
    Ok(Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/api/builds/{id}", get(read))
        .route("/api/builds", post(start))
        .layer(guard))
}

async fn read(Extension(caller): Extension<Principal>, Path(id): Path<String>) -> String {
    format!("build {id}, read by {}", caller.key_id())
}

async fn start(Extension(caller): Extension<Principal>) -> String {
    format!("build started for {}", caller.organization().unwrap_or("nobody"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client =
        Client::builder(std::env::var("KEYWARD_URL")?).credential(std::env::var("KEYWARD_API_KEY")?).build()?;
    // Valid keys are kept in memory, as strictly as by calls.
    client.attach(AttachOptions::default())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, service(client)?).await?;
    Ok(())
}
