//! The messages and services that `proto/` describes, as generated.

#![allow(missing_docs, clippy::pedantic, clippy::large_enum_variant, reason = "generated code")]

use std::fmt;

tonic::include_proto!("keyward.v1");

/// The encoded descriptor set, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keyward.v1.bin"));

/// Messages that carry a secret print only that they do.
macro_rules! redacted {
    ($($message:ident)*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(…)"))
            }
        }
    )*};
}

redacted!(CreateResponse VerifyRequest VerifyStreamRequest UpdateWebhookResponse);
