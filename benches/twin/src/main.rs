//! The bare twin: decodes each request and sends a constant response.

use std::{net::SocketAddr, path::PathBuf, pin::Pin};

use clap::Parser;
use keyward_twin::proto::{
    AttachRequest, AttachResponse, Code, CreateRequest, CreateResponse, ListRequest, ListResponse, RevokeRequest,
    RevokeResponse, UpdateWebhookRequest, UpdateWebhookResponse, VerifyRequest, VerifyResponse, VerifyStreamRequest,
    VerifyStreamResponse,
    key_service_server::{KeyService, KeyServiceServer},
    verify_stream_response::Outcome,
};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// A file with the encoded VerifyResponse to send; without it, a response has only a code.
    #[arg(long)]
    response: Option<PathBuf>,
    /// One thread instead of tokio's default runtime.
    #[arg(long)]
    one_thread: bool,
}

struct Twin {
    response: VerifyResponse,
}

type Result<T> = std::result::Result<T, Status>;

#[tonic::async_trait]
impl KeyService for Twin {
    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyResponse>> {
        Ok(Response::new(self.response.clone()))
    }

    type VerifyStreamStream = Pin<Box<dyn Stream<Item = Result<VerifyStreamResponse>> + Send>>;

    async fn verify_stream(
        &self,
        request: Request<Streaming<VerifyStreamRequest>>,
    ) -> Result<Response<Self::VerifyStreamStream>> {
        let response = self.response.clone();
        let responses = request.into_inner().map(move |message| {
            message.map(|message| VerifyStreamResponse {
                id: message.id,
                outcome: Some(Outcome::Response(response.clone())),
            })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn create(&self, _: Request<CreateRequest>) -> Result<Response<CreateResponse>> {
        Err(Status::unimplemented("the twin only verifies"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>> {
        Err(Status::unimplemented("the twin only verifies"))
    }

    async fn revoke(&self, _: Request<RevokeRequest>) -> Result<Response<RevokeResponse>> {
        Err(Status::unimplemented("the twin only verifies"))
    }

    type AttachStream = Pin<Box<dyn Stream<Item = Result<AttachResponse>> + Send>>;

    async fn attach(&self, _: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>> {
        Err(Status::unimplemented("the twin only verifies"))
    }

    async fn update_webhook(&self, _: Request<UpdateWebhookRequest>) -> Result<Response<UpdateWebhookResponse>> {
        Err(Status::unimplemented("the twin only verifies"))
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let Arguments { addr, response, one_thread } = Arguments::parse();
    let response = match response {
        Some(file) => VerifyResponse::decode(std::fs::read(file)?.as_slice())?,
        None => VerifyResponse { code: Code::Valid.into(), ..VerifyResponse::default() },
    };
    keyward_twin::block_on(one_thread, async move {
        let incoming = TcpIncoming::bind(addr)?.with_nodelay(Some(true));
        println!("grpc listening on {}", incoming.local_addr()?);
        Server::builder().add_service(KeyServiceServer::new(Twin { response })).serve_with_incoming(incoming).await?;
        Ok(())
    })?
}
