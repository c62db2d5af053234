//! The messages and the client that are generated from `proto/`. The comments there are the API's reference.

#![expect(
    clippy::pedantic,
    clippy::large_enum_variant,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

use std::fmt;

tonic::include_proto!("keyward.v1");

/// Implements `Debug` without the fields, for messages that carry a secret.
macro_rules! redacted {
    ($($message:ident)*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(…)"))
            }
        }
    )*};
}

redacted!(CreateResponse VerifyRequest VerifyStreamRequest UpdateWebhookResponse AttachLookUp);
