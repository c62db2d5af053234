//! API keys: their ids, digests and records.

mod id;
mod record;

pub use self::{
    id::{InvalidKeyId, KeyId, KeyIdGenerator},
    record::{Binding, Digest, KeyFacts, KeyRecord, KeyStatus},
};
