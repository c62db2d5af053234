//! A client whose connection no library makes anew: what a server does to one connection shows.

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use h2::client::SendRequest;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

/// One connection of HTTP/2.
pub struct Stranger {
    sender: SendRequest<Bytes>,
    /// The end of the connection.
    pub ended: JoinHandle<Result<(), h2::Error>>,
}

impl Stranger {
    pub async fn new(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        Self { sender, ended: tokio::spawn(connection) }
    }

    /// Sends a Verify of an empty secret; its `grpc-status`.
    pub fn verify(&mut self, credential: &str, timeout: &str) -> BoxFuture<'static, String> {
        let request = http::Request::post("http://keyward/keyward.v1.KeyService/Verify")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {credential}"))
            .header("grpc-timeout", timeout)
            .body(())
            .unwrap();
        let (response, mut body) = self.sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        async move {
            let response = response.await.unwrap();
            response.headers().get("grpc-status").expect("a refusal").to_str().unwrap().to_owned()
        }
        .boxed()
    }
}
