//! Compiles the messages and the client from `proto/` with protox: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/keyward/v1/keys.proto");
    println!("cargo:rerun-if-changed=proto/google/rpc/status.proto");
    let descriptors = protox::compile(["keyward/v1/keys.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // Messages that carry a secret get a redacted Debug by hand (src/proto.rs).
        .skip_debug([
            "keyward.v1.CreateResponse",
            "keyward.v1.VerifyRequest",
            "keyward.v1.VerifyStreamRequest",
            "keyward.v1.UpdateWebhookResponse",
            "keyward.v1.AttachLookUp",
        ])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
